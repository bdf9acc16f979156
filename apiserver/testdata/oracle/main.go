// Command oracle asks Kubernetes' own packages the questions in a JSON file, and writes their answers into it.
//
//	go run . ../oracle.json
//
// The Rust tests hold the schema, selector and patch modules against these answers.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	durationutil "k8s.io/apimachinery/pkg/util/duration"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"
)

type file struct {
	Schema    json.RawMessage `json:"schema"`
	Objects   []create        `json:"objects"`
	Updates   []update        `json:"updates"`
	Labels    []selector      `json:"labels"`
	Fields    []selector      `json:"fields"`
	Strategic []strategic     `json:"strategic"`
	Item      json.RawMessage `json:"item"`
	Cells     []cell          `json:"cells"`
	Durations []duration      `json:"durations"`
}

// A printer column over the item of the file.
type cell struct {
	Path string      `json:"path"`
	Type string      `json:"type"`
	Cell interface{} `json:"cell"`
}

type duration struct {
	Seconds int64  `json:"seconds"`
	Text    string `json:"text"`
}

type create struct {
	Object   json.RawMessage        `json:"object"`
	Unknown  []string               `json:"unknown"`
	Admitted map[string]interface{} `json:"admitted"`
	Errors   []string               `json:"errors"`
}

type update struct {
	Old    json.RawMessage `json:"old"`
	New    json.RawMessage `json:"new"`
	Errors []string        `json:"errors"`
}

type selector struct {
	Text   string `json:"text"`
	Parsed string `json:"parsed,omitempty"`
	Error  string `json:"error,omitempty"`
}

type strategic struct {
	Object  json.RawMessage `json:"object"`
	Patch   json.RawMessage `json:"patch"`
	Patched json.RawMessage `json:"patched,omitempty"`
	Error   string          `json:"error,omitempty"`
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func decode(raw []byte) map[string]interface{} {
	var m map[string]interface{}
	must(utiljson.Unmarshal(raw, &m))
	return m
}

func lines(errs field.ErrorList) []string {
	out := []string{}
	for _, e := range errs {
		out = append(out, string(e.Type)+"|"+e.Error())
	}
	return out
}

// As hasBlockingErr of k8s.io/apiextensions-apiserver/pkg/registry/customresource.
func isBlocked(errs field.ErrorList) bool {
	for _, err := range errs {
		switch err.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return true
		}
	}
	return false
}

const notChecked = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"

func main() {
	raw, err := os.ReadFile(os.Args[1])
	must(err)
	var f file
	must(json.Unmarshal(raw, &f))
	answerObjects(&f)
	for i := range f.Labels {
		l := &f.Labels[i]
		if s, err := labels.Parse(l.Text); err != nil {
			l.Error = err.Error()
		} else {
			l.Parsed = s.String()
		}
	}
	for i := range f.Fields {
		l := &f.Fields[i]
		if s, err := fields.ParseSelector(l.Text); err != nil {
			l.Error = err.Error()
		} else {
			l.Parsed = s.String()
		}
	}
	for i := range f.Strategic {
		s := &f.Strategic[i]
		if patched, err := strategicpatch.StrategicMergePatch(s.Object, s.Patch, corev1.Node{}); err != nil {
			s.Error = err.Error()
		} else {
			s.Patched = patched
		}
	}
	answerCells(&f)
	write(os.Args[1], f)
}

func answerCells(f *file) {
	item := &unstructured.Unstructured{Object: decode(f.Item)}
	for i := range f.Cells {
		c := &f.Cells[i]
		columns := []apiextensionsv1.CustomResourceColumnDefinition{{Name: "x", Type: c.Type, JSONPath: c.Path}}
		convertor, err := tableconvertor.New(columns)
		must(err)
		table, err := convertor.ConvertToTable(context.Background(), item, nil)
		must(err)
		c.Cell = table.Rows[0].Cells[1]
	}
	for i := range f.Durations {
		d := &f.Durations[i]
		d.Text = durationutil.HumanDuration(time.Duration(d.Seconds) * time.Second)
	}
}

// As Validate and ValidateUpdate of the customResourceStrategy, without metadata.
func answerObjects(f *file) {
	var v1 apiextensionsv1.JSONSchemaProps
	must(json.Unmarshal(f.Schema, &v1))
	var internal apiextensions.JSONSchemaProps
	must(apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(&v1, &internal, nil))
	s, err := structuralschema.NewStructural(&internal)
	must(err)
	validator, _, err := validation.NewSchemaValidator(&internal)
	must(err)
	rules := cel.NewValidator(s, true, celconfig.PerCallLimit)
	withRules := func(errs field.ErrorList, obj, old map[string]interface{}, options ...cel.Option) []string {
		if rules == nil {
			return lines(errs)
		}
		if isBlocked(errs) {
			return lines(append(errs, field.Invalid(nil, nil, notChecked)))
		}
		var oldObj interface{}
		if old != nil {
			oldObj = old
		}
		found, _ := rules.Validate(context.Background(), nil, s, obj, oldObj, celconfig.RuntimeCELCostBudget, options...)
		return lines(append(errs, found...))
	}
	for i := range f.Objects {
		o := &f.Objects[i]
		obj := decode(o.Object)
		errs := validation.ValidateCustomResource(nil, obj, validator)
		errs = append(errs, listtype.ValidateListSetsAndMaps(nil, s, obj)...)
		o.Errors = withRules(errs, obj, nil)
		o.Admitted = decode(o.Object)
		o.Unknown = append([]string{}, pruning.PruneWithOptions(o.Admitted, s, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})...)
		defaulting.PruneNonNullableNullsWithoutDefaults(o.Admitted, s)
		defaulting.Default(o.Admitted, s)
	}
	for i := range f.Updates {
		u := &f.Updates[i]
		old, obj := decode(u.Old), decode(u.New)
		correlated := common.NewCorrelatedObject(obj, old, &model.Structural{Structural: s})
		errs := validation.ValidateCustomResourceUpdate(nil, obj, old, validator, validation.WithRatcheting(correlated))
		if oldErrs := listtype.ValidateListSetsAndMaps(nil, s, old); len(oldErrs) == 0 {
			errs = append(errs, listtype.ValidateListSetsAndMaps(nil, s, obj)...)
		}
		u.Errors = withRules(errs, obj, old, cel.WithRatcheting(correlated))
	}
}

// One entry a line, so that a diff shows what changed.
func write(path string, f file) {
	var out bytes.Buffer
	line := func(v interface{}) string {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		must(e.Encode(v))
		return string(bytes.TrimSpace(b.Bytes()))
	}
	out.WriteString("{\n\"schema\": " + line(f.Schema))
	section(&out, "objects", f.Objects, line)
	section(&out, "updates", f.Updates, line)
	section(&out, "labels", f.Labels, line)
	section(&out, "fields", f.Fields, line)
	section(&out, "strategic", f.Strategic, line)
	out.WriteString(",\n\"item\": " + line(f.Item))
	section(&out, "cells", f.Cells, line)
	section(&out, "durations", f.Durations, line)
	out.WriteString("\n}\n")
	must(os.WriteFile(path, out.Bytes(), 0o644))
}

func section[T any](out *bytes.Buffer, name string, entries []T, line func(interface{}) string) {
	out.WriteString(",\n\"" + name + "\": [")
	for i, entry := range entries {
		if i > 0 {
			out.WriteString(",")
		}
		out.WriteString("\n" + line(entry))
	}
	out.WriteString("\n]")
}
