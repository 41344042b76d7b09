// Command restricted reads manifests and prints what the Pod Security Standard "restricted" would
// refuse in their pods
// (https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted).
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"go.yaml.in/yaml/v3"
)

type securityContext struct {
	RunAsNonRoot             *bool `yaml:"runAsNonRoot"`
	RunAsUser                *int  `yaml:"runAsUser"`
	AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
	ReadOnlyRootFilesystem   *bool `yaml:"readOnlyRootFilesystem"`
	Privileged               bool  `yaml:"privileged"`
	Capabilities             struct {
		Drop []string `yaml:"drop"`
		Add  []string `yaml:"add"`
	} `yaml:"capabilities"`
	SeccompProfile struct {
		Type string `yaml:"type"`
	} `yaml:"seccompProfile"`
}

type podSpec struct {
	HostNetwork     bool             `yaml:"hostNetwork"`
	HostPID         bool             `yaml:"hostPID"`
	HostIPC         bool             `yaml:"hostIPC"`
	SecurityContext securityContext  `yaml:"securityContext"`
	Volumes         []map[string]any `yaml:"volumes"`
	Containers      []struct {
		Name            string          `yaml:"name"`
		SecurityContext securityContext `yaml:"securityContext"`
	} `yaml:"containers"`
}

// manifest has a pod's spec in one of the places where kinds keep it.
type manifest struct {
	Kind     string `yaml:"kind"`
	Metadata struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Spec struct {
		podSpec  `yaml:",inline"`
		Template struct {
			Spec podSpec `yaml:"spec"`
		} `yaml:"template"`
		JobTemplate struct {
			Spec struct {
				Template struct {
					Spec podSpec `yaml:"spec"`
				} `yaml:"template"`
			} `yaml:"spec"`
		} `yaml:"jobTemplate"`
	} `yaml:"spec"`
}

func main() {
	pods, problems := 0, 0
	for decoder := yaml.NewDecoder(os.Stdin); ; {
		var m manifest
		err := decoder.Decode(&m)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			continue // the spec of another kind
		}
		for _, spec := range []podSpec{m.Spec.podSpec, m.Spec.Template.Spec, m.Spec.JobTemplate.Spec.Template.Spec} {
			if len(spec.Containers) == 0 {
				continue
			}
			pods++
			for _, problem := range check(spec) {
				problems++
				fmt.Fprintf(os.Stderr, "%s %s: %s\n", m.Kind, m.Metadata.Name, problem)
			}
		}
	}
	if pods == 0 {
		fmt.Fprintln(os.Stderr, "no pods were found")
		problems++
	}
	if problems > 0 {
		os.Exit(1)
	}
	fmt.Printf("Pod Security Standard restricted: %d pods pass\n", pods)
}

func check(spec podSpec) (problems []string) {
	add := func(wrong bool, text string) {
		if wrong {
			problems = append(problems, text)
		}
	}
	isTrue := func(b *bool) bool { return b != nil && *b }
	add(spec.HostNetwork || spec.HostPID || spec.HostIPC, "shares a namespace of the host")
	for _, volume := range spec.Volumes {
		for kind := range volume {
			allowed := []string{
				"name", "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
			}
			add(!slices.Contains(allowed, kind), "mounts a volume of the kind "+kind)
		}
	}
	for _, c := range spec.Containers {
		s := c.SecurityContext
		add(s.Privileged, c.Name+" is privileged")
		add(s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation, c.Name+" may escalate privileges")
		add(!slices.Contains(s.Capabilities.Drop, "ALL"), c.Name+" does not drop all capabilities")
		add(len(s.Capabilities.Add) > 0, c.Name+" adds capabilities")
		add(!isTrue(s.RunAsNonRoot) && !isTrue(spec.SecurityContext.RunAsNonRoot), c.Name+" may run as root")
		add(s.RunAsUser != nil && *s.RunAsUser == 0, c.Name+" runs as root")
		seccomp := s.SeccompProfile.Type + spec.SecurityContext.SeccompProfile.Type
		add(seccomp != "RuntimeDefault" && seccomp != "Localhost", c.Name+" has no seccomp profile")
		// Not part of the standard, but reviewers expect it.
		add(!isTrue(s.ReadOnlyRootFilesystem), c.Name+" may write to its root file system")
	}
	return problems
}
