package nginx

import (
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"chom.dev/agent/run"
	"chom.dev/proto/contract"
)

var testPaths = paths{etc: "/etc/nginx", logs: "/var/log/chom/sites", trees: "/srv/chom/sites", addresses: []string{"80", "[::]:80"}, secure: []string{"443", "[::]:443"}, challenges: ChallengeDir}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func site(t testing.TB, kind Kind, domains ...string) Site {
	t.Helper()
	s := Site{Handle: must(contract.ParseHandle("abcdefgh27")), Kind: kind}
	for _, d := range domains {
		s.Domains = append(s.Domains, must(contract.ParseDomain(d)))
	}
	return s
}

func TestServerBlock(t *testing.T) {
	php := site(t, PHP, "example.com", "www.example.com")
	php.BodyLimit = must(contract.ParseByteSize("128M"))
	suspended := site(t, PHP, "example.com")
	suspended.Suspended = true
	restoring := site(t, PHP, "example.com")
	restoring.Restoring, restoring.Suspended = true, true
	for name, s := range map[string]Site{"static": site(t, Static, "static.example.com"), "php": php, "suspended": suspended, "restoring": restoring} {
		t.Run(name+" is as reviewed", func(t *testing.T) {
			golden(t, "testdata/"+name+".conf", string(must(render(must(testPaths.serverBlock(s))))))
		})
	}
	t.Run("what all sites share is as reviewed", func(t *testing.T) {
		golden(t, "testdata/base.conf", string(must(render(append(testPaths.base(), testPaths.generationBlock(42)...)))))
	})
	t.Run("incomplete sites are refused", func(t *testing.T) {
		whole := site(t, Static, "a.example")
		for _, broken := range []func(s *Site){
			func(s *Site) { s.Handle = contract.Handle{} },
			func(s *Site) { s.Domains = nil },
			func(s *Site) { s.Domains = append(s.Domains, contract.Domain{}) },
			func(s *Site) { s.Kind = 0 },
			func(s *Site) { s.Kind = 3 },
		} {
			s := whole
			broken(&s)
			if _, err := testPaths.serverBlock(s); err == nil {
				t.Errorf("%+v passed", s)
			}
		}
	})
}

func TestRender(t *testing.T) {
	t.Run("refuses what no configuration of ours needs", func(t *testing.T) {
		for _, a := range []string{"a\nb", "a\r", "a\x00", "\x7f", "\xff", "a\u2028b", "\x1b"} {
			if text, err := render([]Directive{d("return", a)}); err == nil {
				t.Errorf("%q gave %q", a, text)
			}
		}
		for _, n := range []string{"", "a b", "a;", "A", "a{", "#a", `"a"`, "a\n", strings.Repeat("a", 65)} {
			if text, err := render([]Directive{d(n, "x")}); err == nil {
				t.Errorf("name %q gave %q", n, text)
			}
		}
	})
	t.Run("hostile arguments stay one argument", func(t *testing.T) {
		for _, a := range []string{"", ";", "}", "{", "a; return 200 x", `"; }`, `\`, `\\`, `"`, `'`, `\"`, "a b", "#x", "a #x", `${x}`, "$", `\n`, `a\`, "é", "a'b"} {
			text := must(render([]Directive{block("server", nil, d("return", a, "end"))}))
			back := must(parse(text))
			if got := back[0].Block[0].Args; len(got) != 2 || got[0] != a || got[1] != "end" {
				t.Errorf("%q came back as %q from %q", a, got, text)
			}
		}
	})
	t.Run("any tree that is rendered reads back as it was", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			tree := drawTree(t, 0)
			text, err := render(tree)
			if err != nil {
				return // refused is fine; different would be an error of render itself
			}
			back, err := parse(text)
			if err != nil || !equal(tree, back) {
				t.Fatalf("%#v\nrendered %q\nread %#v, %v", tree, text, back, err)
			}
		})
	})
}

func drawTree(t *rapid.T, depth int) []Directive {
	tree := []Directive{}
	for range rapid.IntRange(0, 3).Draw(t, "n") {
		d := Directive{Name: rapid.StringMatching(`[a-z_]{1,8}`).Draw(t, "name")}
		d.Args = rapid.SliceOfN(rapid.OneOf(rapid.String(), rapid.StringMatching(`[;{}"'\\$# a]{0,6}`)), 0, 3).Draw(t, "args")
		if depth < 3 && rapid.Bool().Draw(t, "block") {
			d.Block = drawTree(t, depth+1)
		}
		tree = append(tree, d)
	}
	return tree
}

func TestParse(t *testing.T) {
	t.Run("reads by nginx's rules", func(t *testing.T) {
		text := "# a\nuser www-data; # b\nhttp{server_name \"a b\" 'c\"d' e\\\"f \\.php$ ${x}y a#b;\n  if ($a ~ \"x{2}\") { return 200; }\n  types{}}\n"
		want := []Directive{d("user", "www-data"), block("http", nil,
			d("server_name", "a b", `c"d`, `e"f`, `\.php$`, "${x}y", "a#b"),
			block("if", []string{"($a", "~", "x{2}", ")"}, d("return", "200")),
			block("types", nil),
		)}
		got, err := parse([]byte(text))
		// nginx accepts a parenthesis right after a quote, as its own word.
		if err != nil || !equal(got, want) {
			t.Errorf("got %#v, %v", got, err)
		}
	})
	t.Run("refuses what nginx refuses", func(t *testing.T) {
		for _, text := range []string{"a", "a {", "}", "a; }", ";", "{}", `a "b`, `a "b"c;`, "a b; {", strings.Repeat("a {", 100) + strings.Repeat("}", 100)} {
			if got, err := parse([]byte(text)); err == nil {
				t.Errorf("%q gave %#v", text, got)
			}
		}
	})
	t.Run("reads the distribution's own configuration", func(t *testing.T) {
		tree := must(parse(must(os.ReadFile("/etc/nginx/nginx.conf"))))
		if len(tree) < 4 {
			t.Errorf("got %#v", tree)
		}
	})
}

// FuzzParse looks for texts that we and nginx's grammar could read
// differently: whatever is read must render (or be refused) and read the same.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"a;", "a b {c \"d\";}", `x "\\" '\'' ${a};`, "#\n", "a\\ b;"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		tree, err := parse(text)
		if err != nil {
			return
		}
		again, err := render(tree)
		if err != nil {
			return
		}
		if back, err := parse(again); err != nil || !equal(tree, back) {
			t.Fatalf("%q read as %#v, then as %#v, %v", text, tree, back, err)
		}
	})
}

// FuzzQuoteAgainstNginx is the same claim with nginx itself as the judge: one
// hostile argument never changes how many directives it sees.
func FuzzQuoteAgainstNginx(f *testing.F) {
	for _, s := range []string{";", "}", `\`, `"`, "a b", "'", "#", `\"; }`} {
		f.Add(s)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, arg string) {
		if strings.Contains(arg, "$") || len(arg) > 1000 {
			return // nginx expands variables; typed values can't hold one
		}
		text, err := render([]Directive{d("pid", dir+"/pid"), d("error_log", "stderr"), block("events", nil), block("http", nil,
			d("access_log", "off"),
			block("server", nil, d("listen", "127.0.0.1:1"), d("server_name", "a.example"), d("return", "200", arg)))})
		if err != nil {
			return
		}
		file := dir + "/nginx.conf"
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := (run.Cmd{Path: "/usr/sbin/nginx", Args: []string{"-t", "-q", "-c", file}}).Run(t.Context()); err != nil {
			t.Fatalf("nginx refuses %q: %v", text, err)
		}
	})
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs:\n%s", file, got)
	}
}
