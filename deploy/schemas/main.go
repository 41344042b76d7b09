// Command schemas writes the JSON schemas that kubeconform checks the chart's manifests with. It
// takes them from the modules of Kubernetes, KEDA, and the Prometheus Operator. They are strict,
// and need no network once the modules are downloaded.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	kubernetes = "k8s.io/kubernetes@v1.34.1"
	keda       = "github.com/kedacore/keda/v2@v2.21.0"
	operator   = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
)

type object = map[string]any

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: schemas FOLDER")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "schemas:", err)
		os.Exit(1)
	}
}

func run(folder string) error {
	if err := os.MkdirAll(folder, 0o750); err != nil { //nolint:gosec // the caller names the folder
		return err
	}
	dir, err := module(kubernetes)
	if err != nil {
		return err
	}
	if err := fromKubernetes(filepath.Join(dir, "api/openapi-spec/swagger.json"), folder); err != nil {
		return err
	}
	for source, files := range map[string]string{keda: "config/crd/bases/*.yaml", operator: "example/prometheus-operator-crd/*.yaml"} {
		if dir, err = module(source); err != nil {
			return err
		}
		found, err := filepath.Glob(filepath.Join(dir, files))
		if err != nil || len(found) == 0 {
			return fmt.Errorf("%s has no %s (%w)", source, files, err)
		}
		for _, file := range found {
			if err := fromCRD(file, folder); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	return nil
}

// module returns the directory of a module; Go downloads it if needed.
func module(at string) (dir string, err error) {
	out, err := exec.Command("go", "mod", "download", "-json", at).Output() //nolint:gosec // constants
	var answer struct{ Dir, Error string }
	if err := errors.Join(err, json.Unmarshal(out, &answer)); err != nil || answer.Error != "" {
		return "", fmt.Errorf("fetch %s: %w %s", at, err, answer.Error)
	}
	return answer.Dir, nil
}

// write names the file as kubeconform expects it: kind-group-version, with the group's first label,
// and nothing for the core group.
func write(folder, group, version, kind string, schema object) error {
	name := strings.ToLower(kind)
	if group != "" {
		first, _, _ := strings.Cut(group, ".")
		name += "-" + first
	}
	text, err := json.Marshal(schema)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, name+"-"+version+".json"), text, 0o600) //nolint:gosec // names of kinds
}

// fromKubernetes writes a schema for each kind, with the definitions that it needs.
func fromKubernetes(file, folder string) error {
	text, err := os.ReadFile(file) //nolint:gosec // a file of a module
	if err != nil {
		return err
	}
	var swagger struct {
		Definitions map[string]object `json:"definitions"`
	}
	if err := json.Unmarshal(text, &swagger); err != nil {
		return err
	}
	for _, definition := range swagger.Definitions {
		strict(definition)
	}
	for name, definition := range swagger.Definitions {
		kinds, _ := definition["x-kubernetes-group-version-kind"].([]any)
		if len(kinds) != 1 {
			continue // options that many kinds share
		}
		kind := kinds[0].(object)
		needed := object{}
		reach(name, swagger.Definitions, needed)
		schema := object{"$ref": "#/definitions/" + name, "definitions": needed}
		if err := write(folder, kind["group"].(string), kind["version"].(string), kind["kind"].(string), schema); err != nil {
			return err
		}
	}
	return nil
}

// reach collects a definition and those that it refers to.
func reach(name string, all map[string]object, needed object) {
	if needed[name] != nil {
		return
	}
	needed[name] = all[name]
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case object:
			if ref, ok := v["$ref"].(string); ok {
				reach(strings.TrimPrefix(ref, "#/definitions/"), all, needed)
			}
			for _, inner := range v {
				walk(inner)
			}
		case []any:
			for _, inner := range v {
				walk(inner)
			}
		}
	}
	walk(all[name])
}

func fromCRD(file, folder string) error {
	text, err := os.ReadFile(file) //nolint:gosec // a file of a module
	if err != nil {
		return err
	}
	var crd struct {
		Spec struct {
			Group string `yaml:"group"`
			Names struct {
				Kind string `yaml:"kind"`
			} `yaml:"names"`
			Versions []struct {
				Name   string `yaml:"name"`
				Schema struct {
					Schema object `yaml:"openAPIV3Schema"`
				} `yaml:"schema"`
			} `yaml:"versions"`
		} `yaml:"spec"`
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		return err
	}
	for _, version := range crd.Spec.Versions {
		schema := version.Schema.Schema
		strict(schema)
		if properties, ok := schema["properties"].(object); ok {
			properties["metadata"] = object{"type": "object"} // Kubernetes' own
		}
		if err := write(folder, crd.Spec.Group, version.Name, crd.Spec.Names.Kind, schema); err != nil {
			return err
		}
	}
	return nil
}

// strict rejects unknown fields, and accepts numbers as strings where Kubernetes does.
func strict(v any) {
	switch v := v.(type) {
	case object:
		if v["format"] == "int-or-string" || v["x-kubernetes-int-or-string"] == true {
			delete(v, "type")
			delete(v, "format")
			v["anyOf"] = []any{object{"type": "string"}, object{"type": "integer"}}
		}
		_, known := v["properties"]
		if known && v["additionalProperties"] == nil && v["x-kubernetes-preserve-unknown-fields"] != true && !propertyMap(v) {
			v["additionalProperties"] = false
		}
		for _, inner := range v {
			strict(inner)
		}
	case []any:
		for _, inner := range v {
			strict(inner)
		}
	}
}

// propertyMap reports whether v is the property map of a schema, and not a schema: one of the
// properties may itself be named "properties".
func propertyMap(v object) bool {
	for name, inner := range v {
		if _, isSchema := inner.(object); !isSchema && name != "properties" {
			return false
		}
	}
	_, typed := v["type"].(string)
	return !typed
}
