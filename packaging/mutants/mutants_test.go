package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var topLevel = regexp.MustCompile(`^\^?(\w+)`)

// TestTable holds the table against the code as it is now: who moves a check moves its mutant along. That the tests notice is what
// `make mutants` shows.
func TestTable(t *testing.T) {
	t.Chdir("../..")
	if err := fit(mutants); err != nil {
		t.Error(err)
	}
	names := map[string]bool{}
	for _, m := range mutants {
		if names[m.name] {
			t.Errorf("%s: stands twice", m.name)
		}
		names[m.name] = true
		pkg, pattern, _ := strings.Cut(m.test, " ")
		files, err := filepath.Glob(pkg + "/*_test.go")
		if err != nil {
			t.Fatal(err)
		}
		test := topLevel.FindStringSubmatch(strings.TrimPrefix(pattern, "^("))
		if test == nil {
			t.Errorf("%s: the pattern %q names no test", m.name, pattern)
			continue
		}
		found := false
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			found = found || strings.Contains(string(text), "func "+test[1])
		}
		if !found {
			t.Errorf("%s: %s has no test %s", m.name, pkg, test[1])
		}
	}
}
