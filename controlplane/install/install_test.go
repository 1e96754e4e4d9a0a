package install

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	goodToken = "chom1.018f2b1e.0123456789abcdefghijABCDEFGHIJ_-0123456789a.0123456789abcdefghijABCDEFGHIJ_-0123456789a"
	goodHash  = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

var goodAddress = Address{URL: "https://chom.example.com", Agents: "chom.example.com:8443"}

func TestLine(t *testing.T) {
	t.Run("keeps the token out of the command's arguments", func(t *testing.T) {
		got, err := Line(goodAddress, goodToken, goodHash)
		if err != nil {
			t.Fatal(err)
		}
		before, command, _ := strings.Cut(got, " | ")
		if before != `printf '%s\n' '`+goodToken+`'` {
			t.Errorf("the line begins %q", before)
		}
		if strings.Contains(command, goodToken) {
			t.Errorf("the token is in an argument: %s", command)
		}
		for _, want := range []string{ScriptSHA256(), goodHash, "--url https://chom.example.com ", "--agents chom.example.com:8443 "} {
			if !strings.Contains(command, want) {
				t.Errorf("the line lacks %q: %s", want, command)
			}
		}
		if strings.Contains(got, "\n") {
			t.Error("the line has a line break")
		}
	})
	for name, broken := range hostileLines() {
		t.Run("refuses "+name, func(t *testing.T) {
			if got, err := Line(broken.address, broken.token, broken.packages); err == nil {
				t.Errorf("made %q", got)
			} else if broken.token != goodToken && strings.Contains(err.Error(), broken.token) {
				t.Errorf("the error shows the token: %v", err)
			}
		})
	}
}

type hostileLine struct {
	address         Address
	token, packages string
}

// hostileLines has, for every place, what would break out of it.
func hostileLines() map[string]hostileLine {
	lines := map[string]hostileLine{}
	for name, text := range map[string]string{
		"a quote": `'`, "a double quote": `"`, "a semicolon": ";id", "a substitution": "$(id)", "a backtick": "`id`",
		"a line break": "\nid", "a carriage return": "\r\nid", "an encoded line break": "%0d%0a;id", "a space": " -x", "NUL": "\x00",
	} {
		url, agents := goodAddress, goodAddress
		url.URL += text
		agents.Agents += text
		lines[name+" in the URL"] = hostileLine{url, goodToken, goodHash}
		lines[name+" in the agents' address"] = hostileLine{agents, goodToken, goodHash}
		lines[name+" in the token"] = hostileLine{goodAddress, goodToken + text, goodHash}
		lines[name+" in the checksum"] = hostileLine{goodAddress, goodToken, goodHash + text}
		host := goodAddress
		host.URL = "https://a" + text + "b"
		lines[name+" in the host"] = hostileLine{host, goodToken, goodHash}
	}
	return lines
}

// runScript runs the real script where it must stop long before it touches anything: with arguments that it refuses.
func runScript(t *testing.T, stdin string, args ...string) (output string, code int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "install.sh")
	if err := os.WriteFile(path, Script(), 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.Command("/bin/sh", append([]string{path}, args...)...)
	command.Stdin = strings.NewReader(stdin)
	out, err := command.CombinedOutput()
	if err != nil && command.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), command.ProcessState.ExitCode()
}

func TestScript(t *testing.T) {
	t.Run("is the same bytes for every request", func(t *testing.T) {
		mux := http.NewServeMux()
		NewPackages("").Mount(mux)
		for _, target := range []string{"/install.sh", "/install.sh?token=%0d%0a;id", "/install.sh?url='"} {
			request := httptest.NewRequest(http.MethodGet, target, nil)
			request.Host = "evil.example.com"
			request.Header.Set("X-Forwarded-Host", "$(id)")
			answer := httptest.NewRecorder()
			mux.ServeHTTP(answer, request)
			if answer.Code != http.StatusOK || !bytes.Equal(answer.Body.Bytes(), Script()) {
				t.Errorf("%s: status %d, differs: %t", target, answer.Code, !bytes.Equal(answer.Body.Bytes(), Script()))
			}
		}
	})
	for name, broken := range hostileLines() {
		if strings.ContainsRune(broken.address.URL+broken.address.Agents+broken.packages, 0) {
			continue // no argument can hold a NUL
		}
		if first, _, cut := strings.Cut(broken.token, "\n"); cut && first == goodToken {
			continue // only one line is read: what comes after it is nobody's
		}
		t.Run("refuses "+name, func(t *testing.T) {
			out, code := runScript(t, broken.token+"\n", "--url", broken.address.URL, "--agents", broken.address.Agents, "--packages", broken.packages)
			if code == 0 || code == 1 && !strings.Contains(broken.token, "\x00") {
				t.Errorf("exit code %d: %s", code, out)
			}
			if strings.Contains(out, "uid=") {
				t.Errorf("a command ran: %s", out)
			}
			if strings.Contains(out, goodToken) {
				t.Errorf("the token was printed: %s", out)
			}
		})
	}
	t.Run("refuses an unknown argument", func(t *testing.T) {
		if out, code := runScript(t, goodToken, "--token", goodToken); code != 2 || !strings.Contains(out, "there is no argument --token") {
			t.Errorf("exit code %d: %s", code, out)
		}
	})
	t.Run("does nothing when it arrives in part", func(t *testing.T) {
		for cut := 100; cut < len(Script())-len("main \"$@\"\n"); cut += 97 {
			path := filepath.Join(t.TempDir(), "install.sh")
			if err := os.WriteFile(path, Script()[:cut], 0o600); err != nil {
				t.Fatal(err)
			}
			out, _ := exec.Command("/bin/sh", path).CombinedOutput() // a syntax error is as good as silence
			if strings.Contains(string(out), "chom: ") {
				t.Fatalf("the first %d bytes did something: %s", cut, out)
			}
		}
	})
}

// TestPaste runs the whole line, as it would be pasted, against a control plane whose traffic somebody changes.
func TestPaste(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Fatal("curl is needed: apt-get install curl")
	}
	for _, test := range []struct {
		name   string
		change func(path string, body []byte) []byte
		want   string
	}{
		{"stops at a script that was changed", func(path string, body []byte) []byte {
			if path == "/install.sh" {
				return append([]byte("echo pwned\n"), body...)
			}
			return body
		}, "install.sh: FAILED"},
		{"runs the script that it pins", func(_ string, body []byte) []byte { return body }, "chom: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			mux := http.NewServeMux()
			NewPackages("").Mount(mux) // no packages: the script stops at the latest when it fetches their list
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				answer := httptest.NewRecorder()
				mux.ServeHTTP(answer, r)
				w.WriteHeader(answer.Code)
				_, _ = w.Write(test.change(r.URL.Path, answer.Body.Bytes()))
			}))
			defer server.Close()
			line, err := Line(Address{URL: server.URL, Agents: "127.0.0.1:1"}, goodToken, goodHash)
			if err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("/bin/sh", "-c", line).CombinedOutput()
			if err == nil {
				t.Error("the line succeeded")
			}
			if !strings.Contains(string(out), test.want) || strings.Contains(string(out), "pwned") {
				t.Errorf("it printed: %s", out)
			}
		})
	}
}

func TestPackages(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	get := func(p *Packages, path string) *httptest.ResponseRecorder {
		mux := http.NewServeMux()
		p.Mount(mux)
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
		return answer
	}
	p := NewPackages(dir)
	t.Run("says that there are none", func(t *testing.T) {
		if _, _, err := p.Manifest(); !errors.Is(err, ErrNoPackages) {
			t.Errorf("got %v", err)
		}
		if answer := get(p, "/packages/SHA256SUMS"); answer.Code != http.StatusNotFound || !strings.Contains(answer.Body.String(), "no agent packages") {
			t.Errorf("got %d %s", answer.Code, answer.Body)
		}
	})
	write("chom-agent_amd64.deb", "one")
	write("secret.txt", "secret")
	t.Run("pins what lies in the folder, and follows a change", func(t *testing.T) {
		list, first, err := p.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		if want := checksum([]byte("one")) + "  chom-agent_amd64.deb\n"; string(list) != want {
			t.Errorf("the list is %q", list)
		}
		write("chom-agent_amd64.deb", "another")
		_, second, err := p.Manifest()
		if err != nil || second == first || second == "" {
			t.Errorf("after a change: %q, before: %q, %v", second, first, err)
		}
		if got := get(p, "/packages/chom-agent_amd64.deb").Body.String(); got != "another" {
			t.Errorf("served %q", got)
		}
	})
	t.Run("serves nothing else", func(t *testing.T) {
		for _, path := range []string{"/packages/secret.txt", "/packages/chom-agent_mips.deb", "/packages/%2e%2e%2fsecret.txt", "/packages/chom-agent_amd64.deb%00"} {
			if answer := get(p, path); answer.Code == http.StatusOK {
				t.Errorf("%s: %d %s", path, answer.Code, answer.Body)
			}
		}
		if err := os.Symlink("/etc/hostname", filepath.Join(dir, "chom-agent_arm64.deb")); err != nil {
			t.Fatal(err)
		}
		if answer := get(p, "/packages/chom-agent_arm64.deb"); answer.Code == http.StatusOK {
			t.Errorf("followed a link out of the folder: %s", answer.Body)
		}
	})
}
