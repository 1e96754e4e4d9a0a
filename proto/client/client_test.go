package client_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"chom.dev/proto/client"
)

// TestComplete holds the client against the protos: a new service of people's belongs into it.
func TestComplete(t *testing.T) {
	protos, err := filepath.Glob("../chom/*/v1/*_service.proto")
	if err != nil || len(protos) == 0 {
		t.Fatal(protos, err)
	}
	have := map[string]bool{}
	for field, value := range reflect.ValueOf(*client.New("http://127.0.0.1:1", "")).Fields() {
		if value.IsNil() {
			t.Errorf("%s is not made", field.Name)
		}
		have[strings.TrimSuffix(field.Type.Name(), "Client")] = true
	}
	for _, path := range protos {
		if strings.Contains(path, "/link/") || strings.Contains(path, "/plugin/") {
			continue // agents' and plugins' own
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(text), "\nservice ")
		if name, _, _ := strings.Cut(after, " "); !have[name] {
			t.Errorf("there is no client of %s", name)
		}
	}
}

// TestExample builds a program outside of the workspace.
func TestExample(t *testing.T) {
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(t.TempDir(), "example"), ".")
	build.Dir = "example"
	build.Env = append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
