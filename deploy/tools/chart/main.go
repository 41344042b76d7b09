// Command chart checks and renders a Helm chart with Helm's own packages, as helm lint --strict and
// helm template do. The program helm has four hundred packages more, for clusters and registries, which
// take minutes to compile.
//
//	chart lint CHART
//	chart template CHART [-f VALUES] [--set NAME=VALUE]
package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	"helm.sh/helm/v3/pkg/strvals"
)

// namespace is where the release is said to be.
const namespace = "default"

func main() {
	root := &cobra.Command{Use: "chart", SilenceUsage: true}
	root.AddCommand(&cobra.Command{
		Use: "lint CHART", Short: "Fail if Helm warns about the chart", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return check(c.OutOrStdout(), args[0]) },
	})
	var file, set string
	template := &cobra.Command{
		Use: "template CHART", Short: "Print the manifests of a new release", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return render(c.OutOrStdout(), args[0], file, set) },
	}
	template.Flags().StringVarP(&file, "values", "f", "", "file with values")
	template.Flags().StringVar(&set, "set", "", "one more value, as NAME=VALUE")
	root.AddCommand(template)
	if root.Execute() != nil {
		os.Exit(1)
	}
}

// check prints what Helm says about a chart.
func check(w io.Writer, dir string) error {
	result := lint.All(dir, map[string]any{}, namespace, true)
	for _, m := range result.Messages {
		fmt.Fprintln(w, m.Error())
	}
	if result.HighestSeverity >= support.WarningSev {
		return fmt.Errorf("%s: Helm warns", dir)
	}
	return nil
}

// render prints the manifests, sorted by their files. Values that the chart's schema refuses are an
// error.
func render(w io.Writer, dir, file, set string) error {
	chart, err := loader.Load(dir)
	if err != nil {
		return err
	}
	given := chartutil.Values{}
	if file != "" {
		if given, err = chartutil.ReadValuesFile(file); err != nil {
			return err
		}
	}
	if err := strvals.ParseInto(set, given); err != nil {
		return err
	}
	if err := chartutil.ProcessDependenciesWithMerge(chart, given); err != nil {
		return err
	}
	release := chartutil.ReleaseOptions{Name: "release", Namespace: namespace, Revision: 1, IsInstall: true}
	values, err := chartutil.ToRenderValues(chart, given, release, chartutil.DefaultCapabilities)
	if err != nil {
		return err
	}
	manifests, err := engine.Render(chart, values)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(manifests)) {
		if text := strings.TrimPrefix(strings.TrimSpace(manifests[name]), "---\n"); text != "" && path.Base(name) != "NOTES.txt" {
			fmt.Fprintf(w, "---\n# Source: %s\n%s\n", name, text)
		}
	}
	return nil
}
