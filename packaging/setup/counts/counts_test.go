package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCounts(t *testing.T) {
	const good = `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":21.4}
{"Action":"pass","Package":"p","Elapsed":22}
{"Action":"skip","Package":"without tests"}
`
	const part = `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"run","Package":"p","Test":"TestB/one"}
{"Action":"output","Package":"p","Test":"TestB/one","Output":"=== RUN   TestB/one\n"}
{"Action":"output","Package":"p","Test":"TestB/one","Output":"    b_test.go:7: no luck\n"}
{"Action":"fail","Package":"p","Test":"TestB/one"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"fail","Package":"p"}
`
	for _, c := range []struct {
		name, log, web string
		flags          []string
		fails          bool
		says, not      []string
		last           string
	}{
		{name: "all is well", log: good, says: []string{"p TestA 21s"}, last: "1 passed, 0 failed"},
		{
			name: "a failure is one, and is told with its words", log: good + part, fails: true,
			says: []string{"p TestB/one failed:\n        b_test.go:7: no luck\n"}, not: []string{"TestB failed", "=== RUN"}, last: "1 passed, 1 failed",
		},
		{
			name: "a second try counts",
			log: part + `{"Action":"run","Package":"p","Test":"TestB/one"}
{"Action":"pass","Package":"p","Test":"TestB/one"}
{"Action":"pass","Package":"p","Test":"TestB"}
{"Action":"pass","Package":"p"}
`,
			says: []string{"needed a second try: p TestB/one\n"}, not: []string{"no luck", "second try: p\n", "second try: p TestB\n"}, last: "2 passed, 0 failed",
		},
		{
			name: "a second failure is still one", log: good + part + part, fails: true,
			says: []string{"p TestB/one failed:"}, last: "1 passed, 1 failed",
		},
		{
			name: "what a package dies of is told, and the test that it died in",
			log: good + `{"Action":"run","Package":"q","Test":"TestC"}
SIGQUIT: quit
{"Action":"output","Package":"q","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"q"}
`,
			fails: true, says: []string{"q TestC did not end"}, last: "1 passed, 1 failed",
		},
		{
			name: "what does not build is told",
			log: good + `{"ImportPath":"r [r.test]","Action":"build-output","Output":"r/r.go:1:1: expected 'package'\n"}
{"ImportPath":"r [r.test]","Action":"build-fail"}
`,
			fails: true, says: []string{"r [r.test] failed:\n    r/r.go:1:1: expected 'package'"}, last: "1 passed, 1 failed",
		},
		{
			name: "who skips fails", log: good + `{"Action":"skip","Package":"p","Test":"TestD"}
`, fails: true, says: []string{"p TestD was skipped"}, last: "1 passed, 1 failed",
		},
		{name: "nothing ran", fails: true, last: "0 passed, 1 failed"},
		{name: "a run that failed without a test that did", log: good, flags: []string{"--failed"}, fails: true, last: "1 passed, 1 failed"},
		{
			name: "the dashboard's are counted too", log: good, fails: true,
			web:  `{"testResults":[{"name":"/x/walk.test.ts","status":"failed","message":"","assertionResults":[{"fullName":"it goes","status":"passed","duration":30000},{"fullName":"it heals","status":"failed","failureMessages":["Error: no heading\n    at file:///x/node_modules/y.js:1:1"]}]}]}`,
			says: []string{"walk.test.ts it goes 30s", "walk.test.ts it heals failed:\n    Error: no heading\n2 passed"}, last: "2 passed, 1 failed",
		},
		{
			name: "what a walk could not begin with is told", log: good, fails: true,
			web:  `{"testResults":[{"name":"/x/walk.test.ts","status":"failed","message":"chomd did not begin","assertionResults":[{"fullName":"it goes","status":"skipped"}]}]}`,
			says: []string{"walk.test.ts failed:\n    chomd did not begin"}, last: "1 passed, 2 failed",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			args := c.flags
			for name, text := range map[string]string{"web": c.web, "log": c.log} {
				file := filepath.Join(dir, name)
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				if name == "web" && text != "" {
					args = append([]string{"--web", file}, args...)
				} else if name == "log" {
					args = append(args, file)
				}
			}
			var out strings.Builder
			if well := run(args, &out); well == c.fails {
				t.Errorf("all is well: %v", well)
			}
			for _, text := range c.says {
				if !strings.Contains(out.String(), text) {
					t.Errorf("nothing says %q in:\n%s", text, &out)
				}
			}
			for _, text := range c.not {
				if strings.Contains(out.String(), text) {
					t.Errorf("something says %q in:\n%s", text, &out)
				}
			}
			if rows := strings.Split(strings.TrimSpace(out.String()), "\n"); rows[len(rows)-1] != c.last {
				t.Errorf("the last line is %q in:\n%s", rows[len(rows)-1], &out)
			}
		})
	}
}

func TestUnreadable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte("FAIL\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--web", file}, {file + "-away"}} {
		var out strings.Builder
		if well := run(args, &out); well || !strings.Contains(out.String(), file) || !strings.HasSuffix(out.String(), "\n0 passed, 1 failed\n") {
			t.Errorf("%v: %v, %s", args, well, &out)
		}
	}
}
