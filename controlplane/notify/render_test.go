package notify

import (
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"chom.dev/proto/contract"
)

const publicURL = "https://chom.example.com"

func golden(t *testing.T, file, got string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		must(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if got != string(want) {
		t.Errorf("%s is not as reviewed (UPDATE_GOLDEN=1 writes it anew):\n%s", file, got)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPreview(t *testing.T) {
	wanted := []string{
		"verify_email", "sign_up_exists", "reset_password", "password_changed", "confirm_email_change", "email_changed",
		"second_factor_changed", "new_device", "invitation", "impersonation_started", "organization_closing", "webhook_failing", "test",
		"certificate_ending", "certificate_ended", "certificate_lost", "drill_failed",
		"backup_failing", "backup_overdue", "backup_damaged", "backup_well", "backup_quota_near", "backup_quota_full",
	}
	slices.Sort(wanted)
	if have := Templates(); !slices.Equal(have, wanted) {
		t.Errorf("the templates are %v", have)
	}
	for _, name := range Templates() {
		for suffix, asHTML := range map[string]bool{"html": true, "txt": false} {
			t.Run(name+"."+suffix, func(t *testing.T) {
				got, err := Preview(name, publicURL, asHTML)
				must(t, err)
				golden(t, "testdata/"+name+"."+suffix, got)
				for _, value := range catalog[name].values {
					shown := meanings[value].sample
					if meanings[value].kind == moment {
						at, err := time.Parse(time.RFC3339, shown)
						must(t, err)
						shown = at.Format("2 January 2006, 15:04 UTC")
					}
					if !strings.Contains(got, shown) {
						t.Errorf("it does not show %q", value)
					}
				}
			})
		}
	}
	t.Run("nothing lies around", func(t *testing.T) {
		files, err := filepath.Glob("testdata/*")
		must(t, err)
		if len(files) != 2*len(catalog) {
			t.Errorf("%d golden files for %d templates", len(files), len(catalog))
		}
	})
	if _, err := Preview("nonsense", publicURL, true); err == nil || !strings.Contains(err.Error(), "verify_email") {
		t.Errorf("of an unknown name: %v", err)
	}
}

// hostile is what people may write where they choose a name (cases A19, B12).
var hostile = map[string]string{
	"an image":          `<img src=x onerror=alert(1)>`,
	"a script":          `</p></td><script>alert(1)</script>`,
	"a template":        `{{7*7}}{{.public_url}}`,
	"a scheme":          `javascript:alert(1)`,
	"a header":          "x\r\nBcc: victim@example.com\r\n\r\n<b>body</b>",
	"a boundary":        "x\n--boundary\nContent-Type: text/html\n\n<b>",
	"an attribute":      `" onmouseover="alert(1)`,
	"a link":            `see https://evil.example/login`,
	"NUL":               "a\x00b",
	"turned text":       "a\u202egnp.exe",
	"no UTF-8":          "a\xff\xfeb",
	"a separator":       "a\u2028b",
	"half a surrogate":  "\xed\xa0\x80",
	"a megabyte":        strings.Repeat("ab ", 1<<20/3),
	"an encoded header": "=?utf-8?q?x=0d=0aBcc:_y?=",
}

func TestHostile(t *testing.T) {
	public, err := url.Parse(publicURL)
	must(t, err)
	all, err := parseTemplates()
	must(t, err)
	to, err := contract.ParseEmail("anna@example.com")
	must(t, err)
	for _, name := range Templates() {
		harmless := sample(name)
		plain := tags(t, render(t, all, to, name, harmless, public).html)
		for _, value := range catalog[name].values {
			if meanings[value].kind != line {
				continue
			}
			for kind, text := range hostile {
				t.Run(name+"/"+value+"/"+kind, func(t *testing.T) {
					values := maps.Clone(harmless)
					values[value] = text
					r := render(t, all, to, name, values, public)
					if strings.ContainsAny(r.subject, "\r\n\x00") || len(r.subject) > 4*maxLine {
						t.Errorf("the subject is %.200q", r.subject)
					}
					if got := tags(t, r.html); !slices.Equal(got, plain) {
						t.Errorf("the HTML has other elements or attributes: %v", got)
					}
					for where, body := range map[string]string{"text": r.text, "HTML": r.html} {
						if strings.Contains(body, "https://evil") || strings.Contains(body, "\x00") || strings.Contains(body, "\u202e") || strings.Contains(body, "\nBcc:") {
							t.Errorf("the %s is %.300q", where, body)
						}
						if len(body) > 10_000 {
							t.Errorf("the %s has %d bytes", where, len(body))
						}
					}
				})
			}
		}
	}
}

func sample(name string) map[string]string {
	values := map[string]string{}
	for _, value := range catalog[name].values {
		values[value] = meanings[value].sample
		if meanings[value].kind == link {
			values[value] = publicURL + meanings[value].sample
		}
	}
	return values
}

func render(t *testing.T, all *templates, to contract.Email, name string, values map[string]string, public *url.URL) rendered {
	t.Helper()
	_, shown, err := check(Mail{To: to, Template: name, Values: values}, public)
	must(t, err)
	r, err := all.render(name, shown, public)
	must(t, err)
	return r
}

// tags are the elements of a page, each with its attributes, as a browser sees them.
func tags(t *testing.T, page string) (all []string) {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	must(t, err)
	for node := range root.Descendants() {
		if node.Type == html.ElementNode {
			text := node.Data
			for _, a := range node.Attr {
				text += " " + a.Key + "=" + a.Val
			}
			all = append(all, text)
		}
	}
	return all
}

func TestLinks(t *testing.T) {
	public, err := url.Parse(publicURL)
	must(t, err)
	for _, fine := range []string{publicURL, publicURL + "/", publicURL + "/reset?token=abc_-%20&x=1#y"} {
		if _, err := show(link, fine, public); err != nil {
			t.Errorf("%s: %v", fine, err)
		}
	}
	for name, wrong := range map[string]string{
		"nothing": "", "another host": "https://evil.example/reset", "a host that begins alike": publicURL + ".evil.example/",
		"a user": "https://chom.example.com@evil.example/", "a user before ours": "https://evil@chom.example.com/", "in clear": "http://chom.example.com/",
		"another port": "https://chom.example.com:8443/", "a script": "javascript:alert(1)", "data": "data:text/html,x", "a path": "/reset",
		"no scheme": "//chom.example.com/", "a line break": publicURL + "/\r\nBcc: x", "a quote": publicURL + `/"onclick="x`, "markup": publicURL + "/<b>",
		"a backslash": `https:\\chom.example.com/`, "a space": publicURL + "/a b", "umlauts": publicURL + "/ä", "length": publicURL + "/" + strings.Repeat("a", 2000),
	} {
		if _, err := show(link, wrong, public); err == nil {
			t.Errorf("%s is taken for a link", name)
		} else if len(wrong) > 8 && strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: the error repeats it", name)
		}
	}
}
