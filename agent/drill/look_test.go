package drill

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// look asks for paths of a site of files, and gives what they answer.
func ask(t *testing.T, shell string, paths ...string) string {
	t.Helper()
	order, err := json.Marshal(LookOrder{Shell: shell, Host: "a.example", Paths: paths, Within: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Look(t.Context(), bytes.NewReader(order), &out); err != nil {
		t.Fatal(err)
	}
	var pages []Page
	if err := json.Unmarshal(out.Bytes(), &pages); err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, p := range pages {
		text = append(text, fmt.Sprintf("%s %d %q %d", p.Path, p.Status, p.Title, p.Bytes))
	}
	return strings.Join(text, "\n")
}

func TestLookAtFiles(t *testing.T) {
	shell := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(shell+"/public/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(shell+"/public/sub", 0o700); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, shell, "/"); got != `/ 404 "" 0` {
		t.Errorf("without a page: %s", got)
	}
	write("index.htm", "<TITLE>\n second </TITLE>")
	write("sub/index.html", "none")
	write("secret.php", "<title>code</title>")
	if err := os.Symlink("/etc/hostname", shell+"/public/out"); err != nil {
		t.Fatal(err)
	}
	want := `/ 200 "second" 24
/sub/ 200 "" 4
/nothing 404 "" 0
/secret.php 404 "" 0
/../../etc/passwd 404 "" 0
/out 0 "" 0`
	if got := ask(t, shell, "/", "/sub/", "/nothing", "/secret.php", "/../../etc/passwd", "/out"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	write("index.html", "<title>first</title>")
	if got := ask(t, shell, "/"); got != `/ 200 "first" 20` {
		t.Errorf("with both: %s", got)
	}
}

// master answers FastCGI requests as a function of their params.
func master(t *testing.T, answer func(params map[string]string) string) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "chom-drill-") // a test's own is too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", dir+"/sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			text := answer(readParams(c))
			for len(text) > 0 {
				part := text[:min(len(text), 60000)]
				text = text[len(part):]
				_, _ = c.Write(append([]byte{1, 6, 0, 1, byte(len(part) >> 8), byte(len(part)), 0, 0}, part...))
			}
			_, _ = c.Write([]byte{1, 3, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
			_ = c.Close()
		}
	}()
	return dir + "/sock"
}

func readParams(r io.Reader) map[string]string {
	var pairs []byte
	for {
		var h [8]byte
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return nil
		}
		content := make([]byte, binary.BigEndian.Uint16(h[4:6]))
		if _, err := io.ReadFull(r, content); err != nil {
			return nil
		}
		if h[1] == 5 && len(content) == 0 {
			break
		}
		if h[1] == 4 {
			pairs = append(pairs, content...)
		}
	}
	params := map[string]string{}
	length := func() (n int) {
		if n = int(pairs[0]); n < 128 {
			pairs = pairs[1:]
			return n
		}
		n = int(binary.BigEndian.Uint32(pairs) &^ (1 << 31))
		pairs = pairs[4:]
		return n
	}
	for len(pairs) > 0 {
		k, v := length(), length()
		params[string(pairs[:k])] = string(pairs[k : k+v])
		pairs = pairs[k+v:]
	}
	return params
}

func TestVisit(t *testing.T) {
	shell := t.TempDir() + strings.Repeat("/long", 30) // params of more than 127 bytes
	if err := os.MkdirAll(shell+"/public", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(shell+"/public/index.php", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(shell + "/public")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	page := "Content-type: text/html\r\n\r\n<title>home</title>"
	for name, c := range map[string]struct {
		answer func(map[string]string) string
		https  bool
		want   Page
	}{
		"a page": {func(map[string]string) string { return page }, false, Page{Path: "/", Status: 200, Title: "home", Bytes: 19}},
		"a page larger than what is kept": {func(map[string]string) string { return page + strings.Repeat("x", 3<<20) }, false,
			Page{Path: "/", Status: 200, Title: "home", Bytes: 3<<20 + 19}},
		"a broken one": {func(map[string]string) string { return "Status: 500 Internal Server Error\r\nA: b\r\n\r\n" }, false, Page{Path: "/", Status: 500}},
		"to HTTPS on its own name": {func(p map[string]string) string {
			if p["HTTPS"] != "on" {
				return "Status: 301 Moved\r\nLocation: https://a.example/x?y=1\r\n\r\n"
			}
			return "A: b\r\n\r\n<title>" + p["REQUEST_URI"] + " " + p["QUERY_STRING"] + " " + strings.TrimPrefix(p["SCRIPT_FILENAME"], p["DOCUMENT_ROOT"]) + "</title>"
		}, false, Page{Path: "/", Status: 200, Title: "/x?y=1 y=1 /index.php", Bytes: 36}},
		"as visitors do by HTTPS": {func(p map[string]string) string { return "A: b\r\n\r\n" + p["HTTPS"] + p["HTTP_HOST"] }, true, Page{Path: "/", Status: 200, Bytes: 11}},
		"never to another name":   {func(map[string]string) string { return "Status: 302 Found\r\nLocation: https://b.example/\r\n\r\n" }, false, Page{Path: "/", Status: 302}},
		"not for ever":            {func(map[string]string) string { return "Status: 302 Found\r\nLocation: /\r\n\r\n" }, false, Page{Path: "/", Status: 302}},
		"nothing":                 {func(map[string]string) string { return "" }, false, Page{Path: "/", Problem: "answer has no header"}},
		"a status that is none":   {func(map[string]string) string { return "Status: -1\r\n\r\n" }, false, Page{Path: "/", Problem: `answer has status "-1"`}},
	} {
		t.Run(name, func(t *testing.T) {
			o := LookOrder{Shell: shell, Host: "a.example", HTTPS: c.https, Within: time.Minute, PHP: &Master{Socket: master(t, c.answer)}}
			if got := visit(t.Context(), o, root, "/"); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}
