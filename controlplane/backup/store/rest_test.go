package store_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/fault"
)

func TestRestic(t *testing.T) {
	each(t, func(t *testing.T, s shelf) {
		site := serve(t, s, store.AppendOnly, nil)
		from := tree(t, 300_000)
		mustRestic(t, site.url, "init")
		mustRestic(t, site.url, "backup", from)
		first := s.files(t)
		mustRestic(t, site.url, "backup", "--force", from)
		mustRestic(t, site.url, "check", "--read-data")
		to := t.TempDir()
		restored := func(t *testing.T) {
			t.Helper()
			mustRestic(t, site.url, "restore", "latest", "--target", to)
			if out, err := exec.Command("diff", "-r", from, filepath.Join(to, from)).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		}
		restored(t)
		t.Run("its program reads a store without us", func(t *testing.T) {
			if s.s3 != nil {
				return // the same paths, but with another client
			}
			cmd := exec.Command("/usr/bin/restic", "--no-cache", "--no-lock", "--repo", filepath.Join(s.dir, site.repository.String()), "check")
			cmd.Env = []string{"RESTIC_PASSWORD=of a test"}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
		t.Run("G13: who may append can delete nothing and overwrite nothing", func(t *testing.T) {
			before := s.files(t)
			all := map[store.Kind]int{}
			for _, kind := range []store.Kind{store.Keys, store.Data, store.Index, store.Snapshots} {
				for _, o := range must(s.List(t.Context(), site.repository, kind)) {
					all[kind]++
					path := site.url + o.Name.String()
					if status, text := ask(t, http.MethodDelete, path, nil); status != http.StatusForbidden {
						t.Errorf("DELETE %s: %d %s", path, status, text)
					}
					wrong := http.StatusBadRequest
					if kind == store.Keys {
						wrong = http.StatusForbidden // whatever it is
					}
					if status, text := ask(t, http.MethodPost, path, strings.NewReader("other")); status != wrong {
						t.Errorf("POST %s: %d %s", path, status, text)
					}
				}
				if all[kind] == 0 {
					t.Errorf("there are no %s", kind)
				}
			}
			if status, _ := ask(t, http.MethodDelete, site.url+"config", nil); status != http.StatusForbidden {
				t.Errorf("DELETE config: %d", status)
			}
			if status, _ := ask(t, http.MethodPost, site.url+"config", strings.NewReader("other")); status != http.StatusConflict {
				t.Errorf("POST config: %d", status)
			}
			key, name := content(8, 100)
			if status, _ := ask(t, http.MethodPost, site.url+"keys/"+name, bytes.NewReader(key)); status != http.StatusForbidden {
				t.Errorf("another key beside the config: %d", status)
			}
			for _, method := range []string{http.MethodPut, http.MethodPatch, http.MethodDelete} {
				if status, _ := ask(t, method, site.url+"?create=true", nil); status != http.StatusMethodNotAllowed {
					t.Errorf("%s: %d", method, status)
				}
			}
			// The program repeats for minutes what is refused.
			if out, err := restic(t, 5*time.Second, site.url, "forget", "--keep-last", "1", "--prune"); err == nil {
				t.Errorf("it forgets: %s", out)
			}
			for _, o := range must(s.List(t.Context(), site.repository, store.Locks)) {
				if status, _ := ask(t, http.MethodDelete, site.url+o.Name.String(), nil); status != http.StatusOK {
					t.Errorf("a lock stays: %d", status)
				}
			}
			after := s.files(t)
			for _, file := range before {
				if !slices.Contains(after, file) && !strings.Contains(file, "/locks/") {
					t.Errorf("%s is gone", file)
				}
			}
			if out := mustRestic(t, site.url, "snapshots"); !strings.Contains(out, "2 snapshots") {
				t.Error(out)
			}
			restored(t)
		})
		t.Run("who may only read reads", func(t *testing.T) {
			url, before := site.open(t, store.ReadOnly), s.files(t)
			mustRestic(t, url, "--no-lock", "check")
			body, text := content(9, 100)
			for _, method := range []string{http.MethodPost, http.MethodDelete} {
				for _, path := range []string{"config", "data/" + text, "locks/" + text} {
					if status, _ := ask(t, method, url+path, bytes.NewReader(body)); status != http.StatusForbidden {
						t.Errorf("%s %s: %d", method, path, status)
					}
				}
			}
			if status, _ := ask(t, http.MethodPost, url+"?create=true", nil); status != http.StatusForbidden {
				t.Errorf("create: %d", status)
			}
			if after := s.files(t); !slices.Equal(before, after) {
				t.Errorf("there is %v", after)
			}
		})
		t.Run("the control plane forgets, and what stays is whole", func(t *testing.T) {
			url := site.open(t, store.Full)
			mustRestic(t, url, "forget", "--keep-last", "1", "--prune")
			if out := mustRestic(t, url, "snapshots"); !strings.Contains(out, "1 snapshots") {
				t.Error(out)
			}
			mustRestic(t, url, "check", "--read-data")
			restored(t)
			if len(first) == 0 || len(must(s.List(t.Context(), site.repository, store.Locks))) > 0 {
				t.Error("locks are left")
			}
			if status, _ := ask(t, http.MethodDelete, url+"config", nil); status != http.StatusForbidden {
				t.Errorf("DELETE config: %d", status)
			}
		})
	})
}

func TestPaths(t *testing.T) {
	s := disk(t)
	mine := serve(t, s, store.Full, nil)
	other := newRepository()
	body, text := content(1, 100)
	for _, r := range []store.Repository{other, mine.repository} {
		if err := errors.Join(s.Put(t.Context(), r, name(t, store.Data, text), 100, bytes.NewReader(body)), s.Put(t.Context(), r, must(store.ManifestName(1)), 1, strings.NewReader("m"))); err != nil {
			t.Fatal(err)
		}
	}
	before := s.files(t)
	elsewhere := other.Site.String() + "/data/" + text
	t.Run("G05: no path leads to another repository, to manifests, or anywhere else", func(t *testing.T) {
		door := must(url.Parse(mine.url)).Host
		for _, path := range []string{
			"/../" + elsewhere, "/data/../../" + elsewhere, "/data/..%2f..%2f" + strings.ReplaceAll(elsewhere, "/", "%2f"), "/..%2f" + elsewhere,
			"/%2e%2e/" + elsewhere, "//" + other.String() + "/data/" + text, "/" + other.String() + "/data/" + text, "/data//" + text,
			"/data/" + text + "/", "/data/" + text[:2] + "/" + text, "/data/%" + text[1:], "/data%2f" + text, "/./data/" + text,
			"/data/" + text + "%00", "/data\\" + text, "/manifests/", "/manifests/0000000001", "/manifests/" + text, "/unfinished/", "/config/", "/data", "/DATA/",
			"/locks/..", "/keys/.", "/config/../data/" + text,
		} {
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodPost} {
				// By hand: a client would tidy the path.
				conn := must(net.Dial("tcp", door))
				fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", method, path)
				res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
				if err != nil {
					t.Errorf("%s %s: %v", method, path, err)
				} else if res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusBadRequest {
					t.Errorf("%s %s: %s", method, path, res.Status)
				}
				conn.Close()
			}
		}
		if after := s.files(t); !slices.Equal(before, after) {
			t.Errorf("there is %v", after)
		}
	})
	t.Run("parts, lists and errors are the protocol's", func(t *testing.T) {
		object := mine.url + "data/" + text
		for span, want := range map[string]struct {
			status int
			part   []byte
		}{
			"bytes=0-9": {http.StatusPartialContent, body[:10]}, "bytes=90-": {http.StatusPartialContent, body[90:]}, "bytes=95-500": {http.StatusPartialContent, body[95:]}, "": {http.StatusOK, body},
		} {
			var header []string
			if span != "" {
				header = []string{"Range", span}
			}
			if status, got := ask(t, http.MethodGet, object, nil, header...); status != want.status || got != string(want.part) {
				t.Errorf("%s: %d, %d bytes", span, status, len(got))
			}
		}
		for _, span := range []string{"bytes=100-", "bytes=-5", "bytes=5-4", "bytes=0-1,3-4", "lines=0-1", "bytes=99999999999999999999-", "bytes=--1"} {
			if status, _ := ask(t, http.MethodGet, object, nil, "Range", span); status != http.StatusRequestedRangeNotSatisfiable {
				t.Errorf("%s: %d", span, status)
			}
		}
		req := must(http.NewRequest(http.MethodGet, mine.url+"data/", nil))
		req.Header.Set("Accept", "application/vnd.x.restic.rest.v2")
		res := must(http.DefaultClient.Do(req))
		defer res.Body.Close()
		var list []struct {
			Name string
			Size int
		}
		if err := json.NewDecoder(res.Body).Decode(&list); err != nil || len(list) != 1 || list[0].Name != text || list[0].Size != 100 || res.Header.Get("Content-Type") != "application/vnd.x.restic.rest.v2" {
			t.Errorf("%v, %v, %v", list, err, res.Header)
		}
		if _, got := ask(t, http.MethodGet, mine.url+"keys/", nil); got != "[]" {
			t.Errorf("an empty list is %q", got)
		}
		if res := must(http.Head(object)); res.ContentLength != 100 {
			t.Errorf("it has %d bytes", res.ContentLength)
		}
		if status, _ := ask(t, http.MethodPost, mine.url+"locks/"+text, io.MultiReader(bytes.NewReader(body))); status != http.StatusLengthRequired {
			t.Errorf("without a length: %d", status)
		}
		req = must(http.NewRequest(http.MethodPost, mine.url+"locks/"+text, nil))
		req.Body, req.ContentLength = io.NopCloser(io.LimitReader(zeros{}, 2<<20)), 2<<20
		if res, err := http.DefaultClient.Do(req); err == nil && res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("too large: %s", res.Status)
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestUploads(t *testing.T) {
	each(t, func(t *testing.T, s shelf) {
		var asked []int64
		var answer error
		site := serve(t, s, store.AppendOnly, func(_ context.Context, r store.Repository, size int64) error {
			asked = append(asked, size)
			return answer
		})
		site.server.SetPause(1200 * time.Millisecond)
		body, text := content(1, 1<<20)
		door := must(url.Parse(site.url)).Host
		begin := func(t *testing.T, sent []byte) net.Conn {
			t.Helper()
			conn := must(net.Dial("tcp", door))
			fmt.Fprintf(conn, "POST /data/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", text, len(body))
			if _, err := conn.Write(sent); err != nil {
				t.Fatal(err)
			}
			return conn
		}
		empty := func(t *testing.T) {
			t.Helper()
			for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				left := s.files(t)
				if len(left) == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Errorf("left are %v", left)
					break
				}
			}
			if usage := must(s.Usage(t.Context(), site.repository)); usage != 0 {
				t.Errorf("%d bytes are counted", usage)
			}
		}
		t.Run("one that stalls ends, and leaves nothing", func(t *testing.T) {
			for _, sent := range [][]byte{nil, body[:1<<19], body[:1<<20-1]} {
				conn := begin(t, sent)
				began := time.Now()
				res, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err == nil && res.StatusCode != http.StatusRequestTimeout {
					t.Errorf("got %s", res.Status)
				}
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("it took %s", took)
				}
				conn.Close()
				empty(t)
			}
		})
		t.Run("one that is cut leaves nothing", func(t *testing.T) {
			begin(t, body[:1<<19]).Close()
			time.Sleep(100 * time.Millisecond)
			empty(t)
		})
		t.Run("one of another content leaves nothing", func(t *testing.T) {
			if status, words := ask(t, http.MethodPost, site.url+"data/"+text, bytes.NewReader(body[1:])); status != http.StatusBadRequest || !strings.Contains(words, "SHA-256") {
				t.Errorf("%d %s", status, words)
			}
			empty(t)
		})
		t.Run("one beyond the quota is not taken, and is told why", func(t *testing.T) {
			asked, answer = nil, fault.Conflict("5 GB are used, of 5")
			if status, words := ask(t, http.MethodPost, site.url+"data/"+text, bytes.NewReader(body)); status != http.StatusInsufficientStorage || !strings.Contains(words, "5 GB are used, of 5") {
				t.Errorf("%d %s", status, words)
			}
			answer = errors.New("of the database")
			if status, words := ask(t, http.MethodPost, site.url+"data/"+text, bytes.NewReader(body)); status != http.StatusInternalServerError || strings.Contains(words, "database") {
				t.Errorf("%d %s", status, words)
			}
			if answer = nil; !slices.Equal(asked, []int64{1 << 20, 1 << 20}) {
				t.Errorf("it was asked for %v", asked)
			}
			empty(t)
		})
		t.Run("one that is slow but goes on is taken", func(t *testing.T) {
			conn := begin(t, body[:1<<19])
			defer conn.Close()
			for i := range 4 {
				time.Sleep(500 * time.Millisecond)
				if _, err := conn.Write(body[1<<19+i<<17 : 1<<19+(i+1)<<17]); err != nil {
					t.Fatal(err)
				}
			}
			if res := must(http.ReadResponse(bufio.NewReader(conn), nil)); res.StatusCode != http.StatusOK {
				t.Errorf("got %s", res.Status)
			}
		})
	})
}
