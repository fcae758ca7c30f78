// Command manifests checks Kubernetes manifests: that each field is one that Kubernetes knows, and
// that what refers to something else in the file finds it. It is a module of its own, since
// nothing else needs Kubernetes.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "manifests FILE")
		os.Exit(2)
	}
	b, err := os.ReadFile(os.Args[1])
	if err == nil {
		err = check(string(b))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// objects are those of a file.
type objects struct {
	services []corev1.Service
	sets     []appsv1.StatefulSet
	budgets  []policyv1.PodDisruptionBudget
}

func check(text string) error {
	var all objects
	for i, doc := range strings.Split(text, "\n---\n") {
		if err := all.read([]byte(doc)); err != nil {
			return fmt.Errorf("document %d: %w", i+1, err)
		}
	}
	if len(all.sets) != 1 {
		return fmt.Errorf("%d StatefulSets, want one", len(all.sets))
	}
	return all.refer()
}

func (o *objects) read(doc []byte) error {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(doc, &kind); err != nil {
		return err
	}
	switch kind.GroupVersionKind().String() {
	case "/v1, Kind=Service":
		return add(&o.services, doc)
	case "apps/v1, Kind=StatefulSet":
		return add(&o.sets, doc)
	case "policy/v1, Kind=PodDisruptionBudget":
		return add(&o.budgets, doc)
	}
	return fmt.Errorf("the kind %s is not known here", kind.GroupVersionKind())
}

func add[T any](list *[]T, doc []byte) error {
	// As kubectl sends it: what YAML takes for a number is none of a text.
	b, err := yaml.YAMLToJSONStrict(doc)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var object T
	if err := d.Decode(&object); err != nil {
		return err
	}
	*list = append(*list, object)
	return nil
}

// refer looks for what the objects name.
func (o *objects) refer() error {
	set := o.sets[0]
	pod := set.Spec.Template
	selectors := map[string]map[string]string{"the StatefulSet": set.Spec.Selector.MatchLabels}
	for _, s := range o.services {
		selectors["the Service "+s.Name] = s.Spec.Selector
		for _, p := range s.Spec.Ports {
			if !slices.ContainsFunc(pod.Spec.Containers[0].Ports, func(c corev1.ContainerPort) bool {
				return c.Name == p.TargetPort.String() && c.ContainerPort == p.Port && protocol(c.Protocol) == protocol(p.Protocol)
			}) {
				return fmt.Errorf("the Service %s: the port %s leads nowhere", s.Name, p.Name)
			}
		}
	}
	for _, b := range o.budgets {
		selectors["the PodDisruptionBudget "+b.Name] = b.Spec.Selector.MatchLabels
	}
	for who, selector := range selectors {
		for k, v := range selector {
			if len(selector) == 0 || pod.Labels[k] != v {
				return fmt.Errorf("%s selects %s=%s, which pods have not: %v", who, k, v, pod.Labels)
			}
		}
	}
	if !slices.ContainsFunc(o.services, func(s corev1.Service) bool {
		return s.Name == set.Spec.ServiceName && s.Spec.ClusterIP == corev1.ClusterIPNone && s.Spec.PublishNotReadyAddresses
	}) {
		return fmt.Errorf("serviceName %s is no headless Service that leads to nodes before they are ready", set.Spec.ServiceName)
	}
	return checkContainer(set)
}

func protocol(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

func checkContainer(set appsv1.StatefulSet) error {
	c := set.Spec.Template.Spec.Containers[0]
	volumes := map[string]bool{}
	for _, v := range set.Spec.VolumeClaimTemplates {
		volumes[v.Name] = true
	}
	for _, m := range c.VolumeMounts {
		if !volumes[m.Name] {
			return fmt.Errorf("the volume %s is mounted and not claimed: %v", m.Name, slices.Sorted(maps.Keys(volumes)))
		}
	}
	for name, p := range map[string]*corev1.Probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
		if p == nil || p.HTTPGet == nil || !slices.ContainsFunc(c.Ports, func(port corev1.ContainerPort) bool { return port.Name == p.HTTPGet.Port.String() }) {
			return fmt.Errorf("the %s probe asks no port of the container", name)
		}
	}
	s := c.SecurityContext
	if s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation {
		return fmt.Errorf("the container is not confined: %+v", s)
	}
	return nil
}
