package openapi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"

	"chom.dev/controlplane/api"
	"chom.dev/controlplane/openapi"
	"chom.dev/controlplane/rest"
)

func committed(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("../api/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestDocument holds the committed document to the meta-schema of OpenAPI 3.1.
func TestDocument(t *testing.T) {
	valid := func(text []byte) []string {
		document, err := libopenapi.NewDocument(text)
		if err != nil {
			return []string{err.Error()}
		}
		v, errs := validator.NewValidator(document)
		if len(errs) > 0 {
			return []string{errs[0].Error()}
		}
		var wrong []string
		if ok, found := v.ValidateDocument(); !ok {
			for _, e := range found {
				wrong = append(wrong, e.Error())
				for _, s := range e.SchemaValidationErrors {
					wrong = append(wrong, s.Error())
				}
			}
		}
		return wrong
	}
	text := committed(t)
	if wrong := valid(text); wrong != nil {
		t.Errorf("it is not valid: %s", strings.Join(wrong, "\n"))
	}
	for name, change := range map[string][2]string{
		"a parameter that is nowhere":  {`"in": "query"`, `"in": "nowhere"`},
		"a reference that is no text":  {`"$ref": "#/components/responses/Problem"`, `"$ref": 7`},
		"an operation without answers": {`"responses": {`, `"replies": {`},
	} {
		if broken := strings.Replace(string(text), change[0], change[1], 1); broken == string(text) || valid([]byte(broken)) == nil {
			t.Errorf("%s was not noticed", name)
		}
	}
}

// TestFresh has the document say what the protos and the table say, but for the comments, which programs do not have.
func TestFresh(t *testing.T) {
	text, err := openapi.Document(api.Methods(), api.AccessOf)
	if err != nil {
		t.Fatal(err)
	}
	var fresh, have any
	if err := errors.Join(json.Unmarshal(text, &fresh), json.Unmarshal(committed(t), &have)); err != nil {
		t.Fatal(err)
	}
	if where := differ("", bare(fresh), bare(have)); where != "" {
		t.Errorf("controlplane/api/openapi.json is not of these protos and rules, at %s: run make generate", where)
	}
}

// bare is a document without what comes from comments.
func bare(v any) any {
	switch v := v.(type) {
	case map[string]any:
		delete(v, "summary")
		if _, ok := v["description"].(string); ok {
			delete(v, "description")
		}
		if all, ok := v["allOf"].([]any); ok && len(all) == 1 {
			return bare(all[0]) // a reference with a comment
		}
		for name := range v {
			v[name] = bare(v[name])
		}
	case []any:
		for i := range v {
			v[i] = bare(v[i])
		}
	}
	return v
}

// differ says where two documents do; empty for nowhere.
func differ(at string, a, b any) string {
	if object, ok := a.(map[string]any); ok {
		other, _ := b.(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(object)) {
			if where := differ(at+"/"+name, object[name], other[name]); where != "" {
				return where
			}
		}
		if len(object) == len(other) {
			return ""
		}
	}
	if items, ok := a.([]any); ok {
		other, _ := b.([]any)
		for i := range min(len(items), len(other)) {
			if where := differ(fmt.Sprintf("%s/%d", at, i), items[i], other[i]); where != "" {
				return where
			}
		}
	}
	if !reflect.DeepEqual(a, b) {
		return fmt.Sprintf("%s, %v", at, b)
	}
	return ""
}

// TestComplete finds what a reader would miss.
func TestComplete(t *testing.T) {
	var document struct {
		Tags []struct {
			Name, Description string
		}
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Summary     string
			Description string
			Parameters  []struct {
				Ref, Name, Description string
			}
			Responses map[string]any
			Security  []map[string][]string
			Procedure string `json:"x-chom-procedure"`
		}
		Components struct {
			Schemas map[string]struct {
				Description string
				Properties  map[string]struct {
					Description string
				}
			}
		}
	}
	if err := json.Unmarshal(committed(t), &document); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	covered := map[string]bool{}
	for path, methods := range document.Paths {
		for method, op := range methods {
			if ids[op.OperationID] {
				t.Errorf("%s names two operations", op.OperationID)
			}
			ids[op.OperationID], covered[op.Procedure] = true, true
			if op.Summary == "" || op.Description == "" || op.Security == nil || op.Responses["default"] == nil {
				t.Errorf("%s %s: %+v", method, path, op)
			}
			for _, p := range op.Parameters {
				if p.Name != "" && p.Description == "" {
					t.Errorf("%s %s: nothing explains %s", method, path, p.Name)
				}
			}
		}
	}
	for procedure := range api.Methods() {
		if !covered[procedure] {
			t.Errorf("%s is missing", procedure)
		}
	}
	for name, schema := range document.Components.Schemas {
		if schema.Description == "" {
			t.Errorf("nothing explains %s", name)
		}
		for field, property := range schema.Properties {
			if property.Description == "" {
				t.Errorf("nothing explains %s of %s", field, name)
			}
		}
	}
	for _, tag := range document.Tags {
		if tag.Description == "" {
			t.Errorf("nothing explains %s", tag.Name)
		}
	}
	for _, kind := range rest.Kinds {
		if kind.Advice == "" || !strings.Contains(string(committed(t)), `"`+rest.TypePrefix+kind.Name+`"`) {
			t.Errorf("nothing explains %s", kind.Name)
		}
	}
	if !slices.ContainsFunc(document.Paths["/api/v1/caller"]["get"].Security, func(way map[string][]string) bool { return way["token"] != nil }) {
		t.Error("no token for GetCaller")
	}
}
