package parse

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/penstock-cd/penstock/workflows"
)

// EncodeScenario writes a scenario as a document that reads back as the same.
// What is empty is left out.
func EncodeScenario(s *workflows.Scenario) ([]byte, error) {
	root := mapping("apiVersion", workflows.APIVersion, "kind", workflows.KindScenario)
	body := written(reflect.ValueOf(s).Elem())
	for i := 1; i < len(body.Content); i += 2 {
		if body.Content[i-1].Value == "spec" {
			body.Content[i].Style &^= yaml.FlowStyle
		}
	}
	root.Content = append(root.Content, body.Content...)
	var b bytes.Buffer
	d, err := yaml.NewDumper(&b, yaml.WithIndent(2), yaml.WithLineWidth(-1))
	if err == nil {
		err = errors.Join(d.Dump(root), d.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("scenario %s: %w", s.Metadata.Name, err)
	}
	return b.Bytes(), nil
}

func mapping(pairs ...string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, text := range pairs {
		n.Content = append(n.Content, scalar(text))
	}
	return n
}

// scalar is a node of a value that stands for itself.
func scalar(v any) *yaml.Node {
	n := &yaml.Node{}
	if err := n.Encode(v); err != nil {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: fmt.Sprint(v)} // unreachable: texts, numbers and truths encode
	}
	return n
}

// written gives the node of a value; nil when it is empty. Small structures
// stand on one line.
func written(v reflect.Value) *yaml.Node {
	if v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		if v.IsNil() {
			return nil
		}
		return written(v.Elem())
	}
	if d, ok := v.Interface().(workflows.Duration); ok {
		if d == 0 {
			return nil
		}
		return scalar(workflows.ShortDuration(time.Duration(d)))
	}
	switch v.Kind() {
	case reflect.Struct:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for i := range v.NumField() {
			key, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
			if key == "" || key == "-" {
				continue
			}
			if value := written(v.Field(i)); value != nil {
				n.Content = append(n.Content, scalar(key), value)
			}
		}
		if len(n.Content) == 0 {
			return nil
		}
		return compact(n)
	case reflect.Map:
		if v.Len() == 0 {
			return nil
		}
		return writtenMap(v)
	case reflect.Slice:
		if v.IsNil() {
			return nil
		}
		if v.Type() == answersType && v.Len() == 1 { // one may stand without the list
			if one := written(v.Index(0)); one != nil {
				return one
			}
		}
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.Len() {
			switch value := written(v.Index(i)); {
			case value != nil:
				n.Content = append(n.Content, value)
			case v.Index(i).Kind() == reflect.Pointer: // an answer that says nothing
				n.Content = append(n.Content, &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle})
			default:
				n.Content = append(n.Content, scalar(v.Index(i).Interface()))
			}
		}
		return compact(n)
	}
	if v.IsZero() && v.Kind() != reflect.Int64 && v.Kind() != reflect.Float64 {
		return nil
	}
	return scalar(v.Interface())
}

// writtenMap keeps what a map holds, nought and false as well: they are values
// that somebody gave.
func writtenMap(v reflect.Value) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	for _, k := range keys {
		x := v.MapIndex(k)
		value := written(x)
		if value == nil {
			value = scalar(x.Interface())
		}
		n.Content = append(n.Content, scalar(k.String()), value)
	}
	return compact(n)
}

// longLine is what fits on a line with others.
const longLine = 100

// compact writes a node on one line where it is short.
func compact(n *yaml.Node) *yaml.Node {
	if length(n) < longLine && !slices.ContainsFunc(n.Content, func(c *yaml.Node) bool { return c.Kind != yaml.ScalarNode && c.Style&yaml.FlowStyle == 0 }) {
		n.Style |= yaml.FlowStyle
	}
	return n
}

func length(n *yaml.Node) int {
	sum := len(n.Value) + 2
	for _, c := range n.Content {
		sum += length(c)
	}
	return sum
}
