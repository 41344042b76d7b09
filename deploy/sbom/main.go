// Command sbom writes the software bill of materials of a Go binary as CycloneDX JSON, from the
// build information that the linker wrote into the binary.
package main

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: sbom BINARY VERSION")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(binary, version string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return err
	}
	component := func(path, version string) cdx.Component {
		purl := "pkg:golang/" + path + "@" + version
		return cdx.Component{BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: path, Version: version, PackageURL: purl}
	}
	components := []cdx.Component{component("std", info.GoVersion)}
	var refs []string
	for _, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		one := component(module.Path, module.Version)
		components = append(components, one)
		refs = append(refs, one.BOMRef)
	}
	main := component(info.Main.Path, version)
	main.Type = cdx.ComponentTypeApplication
	main.Description = filepath.Base(binary)
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: &main}
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: main.BOMRef, Dependencies: &refs}}
	encoder := cdx.NewBOMEncoder(os.Stdout, cdx.BOMFileFormatJSON)
	encoder.SetPretty(true)
	return encoder.Encode(bom)
}
