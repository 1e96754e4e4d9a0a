package link_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"chom.dev/agent/link"
	"chom.dev/agent/link/linktest"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

func TestRepository(t *testing.T) {
	s := linktest.New(t)
	s.Repositories = func(server, site string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %s %s %s", server, site, r.Method, r.URL.Path)
		})
	}
	a := enrolled(t, s)
	site := contract.NewSiteID().String()
	ask := func() (*http.Response, error) {
		return a.link.Repository(&http.Request{
			Method: http.MethodPost, URL: &url.URL{Path: "/backup/v1/" + site + "/config"}, Header: http.Header{contract.EpochHeader: {"999"}},
			Body: io.NopCloser(strings.NewReader("x")), ContentLength: 1,
		})
	}
	a.start()
	eventually := func(what string, ok func() error) {
		t.Helper()
		var err error
		for range 100 {
			if err = ok(); err == nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Fatalf("%s: %v", what, err)
	}
	eventually("a request reaches its site's repository", func() error {
		res, err := ask()
		if err != nil {
			return err
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		if want := a.id + " " + site + " POST /config"; string(b) != want {
			return fmt.Errorf("%d: %q, not %q", res.StatusCode, b, want)
		}
		return nil
	})
	key, err := a.link.FetchRepositoryKey(t.Context(), &linkv1.FetchRepositoryKeyRequest{SiteId: site})
	if err != nil || key.Key != linktest.RepositoryKey(site) {
		t.Errorf("key: %v", err)
	}
	s.Stop()
	eventually("it says that the control plane is away", func() error {
		res, err := ask()
		if err == nil {
			res.Body.Close()
		}
		if !errors.Is(err, link.ErrDown) {
			return fmt.Errorf("it says %w", err)
		}
		return nil
	})
}
