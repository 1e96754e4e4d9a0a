package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/secret"
)

func TestS3(t *testing.T) {
	s := bucket(t)
	r := newRepository()
	body, text := content(1, 2<<20)
	n := name(t, store.Data, text)
	calls := func(s store.Store, r store.Repository) map[string]error {
		_, stat := s.Stat(t.Context(), r, n)
		_, get := s.Get(t.Context(), r, n, 0, 0)
		_, list := s.List(t.Context(), r, store.Data)
		_, usage := s.Usage(t.Context(), r)
		return map[string]error{
			"put": s.Put(t.Context(), r, n, 2<<20, bytes.NewReader(body)), "stat": stat, "get": get, "list": list, "usage": usage,
			"delete": s.Delete(t.Context(), r, n), "remove": s.Remove(t.Context(), r),
		}
	}
	t.Run("G11: what the bucket refuses is no object, and says so without the key", func(t *testing.T) {
		wrong := openS3(t, s.s3.Endpoint, "CANARY-OF-THE-KEY")
		for what, err := range calls(wrong, r) {
			f, ok := fault.Of(err)
			if !ok || f.Kind() != fault.KindUnavailable || !strings.Contains(f.Error(), "refuses the control plane's credentials") {
				t.Errorf("%s: %v", what, err)
			}
			if said := fmt.Sprintf("%v %+v %v", err, err, errors.Unwrap(f)); strings.Contains(said, "CANARY") {
				t.Error(said)
			}
		}
		if err := wrong.Ready(t.Context()); err == nil {
			t.Error("it is ready")
		}
		site := serve(t, wrong, store.AppendOnly, nil)
		if status, words := ask(t, http.MethodPost, site.url+"data/"+text, bytes.NewReader(body)); status != http.StatusServiceUnavailable || strings.Contains(words, "keep") {
			t.Errorf("%d %s", status, words)
		}
		if left := s.files(t); len(left) > 0 {
			t.Errorf("left are %v", left)
		}
	})
	t.Run("a bucket that is not there is told as that", func(t *testing.T) {
		none := must(store.OpenS3(store.S3Config{Endpoint: s.s3.Endpoint, Bucket: "none", AccessKey: "access", SecretKey: secret.New([]byte(s.s3.SecretKey))}))
		if err := none.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "no bucket none") {
			t.Errorf("got %v", err)
		}
		if err := none.Put(t.Context(), r, n, 2<<20, bytes.NewReader(body)); fault.KindOf(err) != fault.KindUnavailable {
			t.Errorf("got %v", err)
		}
		if err := s.Store.(*store.S3).Ready(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("G11: a bucket that is down is an error, and works again when it is back", func(t *testing.T) {
		dir := t.TempDir()
		server := startS3(t, dir, 0)
		s := openS3(t, server.Endpoint, server.SecretKey)
		server.Stop()
		began := time.Now()
		for what, err := range calls(s, r) {
			if fault.KindOf(err) != fault.KindUnavailable {
				t.Errorf("%s: %v", what, err)
			}
		}
		t.Logf("seven calls took %s", time.Since(began))
		_, port, _ := net.SplitHostPort(strings.TrimPrefix(server.Endpoint, "http://"))
		startS3(t, dir, must(strconv.Atoi(port)))
		if usage, err := s.Usage(t.Context(), r); err != nil || usage != 0 {
			t.Errorf("%d bytes are counted, %v", usage, err)
		}
		if err := s.Put(t.Context(), r, n, 2<<20, bytes.NewReader(body)); err != nil {
			t.Error(err)
		}
	})
	t.Run("G11: a bucket that stops to read in the middle is an error in time", func(t *testing.T) {
		l := must(net.Listen("tcp", "127.0.0.1:0"))
		defer l.Close()
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					// It says of the first request that there is no such object, and reads half of the second.
					_, _ = io.ReadAtLeast(conn, make([]byte, 4096), 10)
					_, _ = io.WriteString(conn, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
					_, _ = io.ReadFull(conn, make([]byte, 1<<20))
					time.Sleep(20 * time.Second)
				}()
			}
		}()
		s := openS3(t, "http://"+l.Addr().String(), "key")
		s.SetStall(time.Second)
		began := time.Now()
		huge, text := content(2, 40<<20)
		err := s.Put(t.Context(), r, name(t, store.Data, text), 40<<20, bytes.NewReader(huge))
		if fault.KindOf(err) != fault.KindUnavailable || time.Since(began) > 10*time.Second {
			t.Errorf("got %v after %s", err, time.Since(began))
		}
	})
	t.Run("a bucket that takes no conditions has objects put without", func(t *testing.T) {
		at := must(url.Parse(s.s3.Endpoint))
		front := httptest.NewServer(&httputil.ReverseProxy{
			Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(at); r.Out.Host = r.In.Host }, // which is signed
			Transport: noConditions{},
		})
		defer front.Close()
		simple, r := openS3(t, front.URL, s.s3.SecretKey), newRepository()
		if err := simple.Put(t.Context(), r, n, 2<<20, bytes.NewReader(body)); fault.KindOf(err) != fault.KindUnavailable { // it can't be read twice
			t.Errorf("got %v", err)
		}
		if err := simple.Put(t.Context(), r, n, 2<<20, bytes.NewReader(body)); err != nil {
			t.Error(err)
		}
		small, text := content(3, 100)
		again := openS3(t, front.URL, s.s3.SecretKey)
		for range 2 {
			if err := again.Put(t.Context(), r, name(t, store.Locks, text), 100, bytes.NewReader(small)); err != nil {
				t.Error(err)
			}
		}
		if err := again.Put(t.Context(), r, store.ConfigName(), 3, strings.NewReader("one")); err != nil {
			t.Error(err)
		}
		if err := again.Put(t.Context(), r, store.ConfigName(), 3, strings.NewReader("two")); !errors.Is(err, store.ErrDiffers) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("an endpoint is scheme and host", func(t *testing.T) {
		for _, endpoint := range []string{"", "s3.example.com", "ftp://s3.example.com", "https://a:b@s3.example.com", "https://s3.example.com/bucket", "https://s3.example.com?x=y", "https://"} {
			if _, err := store.OpenS3(store.S3Config{Endpoint: endpoint, Bucket: "backups"}); err == nil {
				t.Errorf("%q is one", endpoint)
			}
		}
		if _, err := store.OpenS3(store.S3Config{Endpoint: "https://s3.example.com", Bucket: "backups", Prefix: "a/../.."}); err == nil {
			t.Error("a prefix leads upwards")
		}
	})
}

// noConditions is what stands before a bucket that takes no conditions: it says so as Backblaze B2 does.
type noConditions struct{}

func (noConditions) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("If-None-Match") == "" {
		return http.DefaultTransport.RoundTrip(r)
	}
	_, _ = io.Copy(io.Discard, r.Body) // it is the client's
	return &http.Response{
		StatusCode: http.StatusNotImplemented, ProtoMajor: 1, ProtoMinor: 1, Request: r, Header: http.Header{"Content-Type": {"application/xml"}},
		Body: io.NopCloser(strings.NewReader("<Error><Code>NotImplemented</Code><Message>A header you provided implies functionality that is not implemented.</Message></Error>")),
	}, nil
}
