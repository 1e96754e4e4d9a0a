package certificate

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"chom.dev/controlplane/certificate/certificatetest"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/secret"
	"chom.dev/controlplane/secret/secrettest"
	"chom.dev/proto/contract"
)

func (w *world) uploaded(t *testing.T) []Upload {
	t.Helper()
	all, err := Uploaded(t.Context(), w.db.Reader(), w.ours, w.site)
	must(t, err)
	return all
}

func (w *world) upload(t *testing.T, names ...string) Upload {
	t.Helper()
	chain, key := w.ca.Files(t, certificatetest.Leaf(names...))
	made, err := w.Upload(t.Context(), w.ours, w.site, chain, key)
	must(t, err)
	return made
}

func TestUpload(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		chain, key := w.ca.Files(t, certificatetest.Leaf("example.com", "foreign.example.org"))
		made, err := w.Upload(t.Context(), w.ours, w.site, chain, key)
		must(t, err)
		all := w.uploaded(t)
		if len(all) != 1 || !reflect.DeepEqual(all[0], made) || joinNames(made.Domains, " ") != "example.com foreign.example.org" || len(made.SHA256) != 32 || made.Issuer != "CN=Test Between" {
			t.Errorf("made %+v, stored %+v", made, all)
		}
		if w.changes != 1 {
			t.Errorf("the site heard of it %d times", w.changes)
		}

		t.Run("gives its host what can be served", func(t *testing.T) {
			gotChain, gotKey, err := w.Fetch(t.Context(), w.ours, w.site, made.ID)
			must(t, err)
			if _, err := tls.X509KeyPair(gotChain, gotKey); err != nil || string(gotChain) != chain || string(gotKey) != key {
				t.Errorf("fetched %v", err)
			}
		})
		t.Run("shows nobody the key, and none of it to who reads the database", func(t *testing.T) {
			var sealed []byte
			must(t, d.Reader().QueryRow(t.Context(), `SELECT sealed_key FROM uploaded_certificates`).Scan(&sealed))
			for _, line := range strings.Split(key, "\n") {
				if len(line) > 20 && !strings.HasPrefix(line, "-----") && (bytes.Contains(sealed, []byte(line)) || strings.Contains(fmt.Sprintf("%+v", made), line)) {
					t.Errorf("%q stands there", line)
				}
			}
			if _, err := secrettest.New().Open(place(w.theirs, made.ID), sealed); !errors.Is(err, secret.ErrTampered) {
				t.Errorf("it opens for another organization: %v", err)
			}
		})
		t.Run("gives it for no other site and to no other organization", func(t *testing.T) {
			for _, of := range []struct {
				organization contract.OrganizationID
				site         contract.SiteID
			}{{w.theirs, w.site}, {w.theirs, w.theirSite}, {w.ours, w.theirSite}} {
				if _, key, err := w.Fetch(t.Context(), of.organization, of.site, made.ID); !errors.Is(err, ErrNotFound) || key != nil {
					t.Errorf("fetched: %v", err)
				}
				if err := w.Delete(t.Context(), of.organization, of.site, made.ID); fault.KindOf(err) != fault.KindNotFound {
					t.Errorf("deleted: %v", err)
				}
				if all, err := Uploaded(t.Context(), d.Reader(), of.organization, of.site); err != nil || len(all) != 0 {
					t.Errorf("listed: %v, %v", all, err)
				}
			}
			if _, err := w.ListUploaded(t.Context(), w.theirs, w.site); fault.KindOf(err) != fault.KindNotFound {
				t.Errorf("listed: %v", err)
			}
			if _, err := w.Upload(t.Context(), w.theirs, w.site, chain, key); fault.KindOf(err) != fault.KindNotFound {
				t.Errorf("uploaded: %v", err)
			}
		})
		t.Run("is rotated with the other secrets", func(t *testing.T) {
			checked, err := secret.Check(t.Context(), d, secrettest.New(), []secret.Column{Sealed})
			if err != nil || checked.Values[1] != 1 || len(checked.Unreadable) != 0 {
				t.Errorf("%+v, %v", checked, err)
			}
		})
		t.Run("is gone with its key when it is deleted", func(t *testing.T) {
			must(t, w.Delete(t.Context(), w.ours, w.site, made.ID))
			if len(w.uploaded(t)) != 0 || w.changes != 2 {
				t.Errorf("%d are left, the site heard %d times", len(w.uploaded(t)), w.changes)
			}
			if err := w.Delete(t.Context(), w.ours, w.site, made.ID); !errors.Is(err, ErrNotFound) || w.changes != 2 {
				t.Errorf("deleted twice: %v", err)
			}
		})
		if got := strings.Join(w.audited(t), " "); got != "certificate.upload certificate.delete" {
			t.Errorf("audited is %s", got)
		}
	})
}

func TestUploadIsRefused(t *testing.T) {
	w := newWorld(t, dbtest.SQLite(t))
	chain, key := w.ca.Files(t, certificatetest.Leaf("example.org", "*.example.org"))
	t.Run("for none of the site's names, with what it is for and what the site has", func(t *testing.T) {
		_, err := w.Upload(t.Context(), w.ours, w.site, chain, key)
		want := "the certificate is for example.org, *.example.org; the site's names that the organization holds are example.com, www.example.com: it is for none of them"
		if fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("while the organization holds none of them", func(t *testing.T) {
		w.hold(t)
		defer w.hold(t, "example.com")
		if _, err := w.Upload(t.Context(), w.ours, w.site, chain, key); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), "claim them first") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("with nothing changed where the site cannot be", func(t *testing.T) {
		w.refuse = errRefused
		defer func() { w.refuse = nil }()
		chain, key := w.ca.Files(t, certificatetest.Leaf("example.com"))
		if _, err := w.Upload(t.Context(), w.ours, w.site, chain, key); !errors.Is(err, errRefused) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("broken", func(t *testing.T) {
		if _, err := w.Upload(t.Context(), w.ours, w.site, chain, "x"+key); fault.KindOf(err) != fault.KindInvalid || strings.Contains(err.Error(), "BEGIN") {
			t.Errorf("got %v", err)
		}
	})
	if n := w.count(t, `SELECT COUNT(*) FROM uploaded_certificates`); n != 0 || len(w.audited(t)) != 0 {
		t.Errorf("%d are there, audited is %v", n, w.audited(t))
	}
}

func TestReplace(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.hold(t, "example.com", "www.example.com", "*.shop.example.com")
		apex, www, star := w.upload(t, "example.com"), w.upload(t, "www.example.com"), w.upload(t, "*.shop.example.com")
		wide := w.upload(t, "*.example.com") // covers www, and neither the name above nor a wildcard below
		if got := ids(w.uploaded(t)); got != ids([]Upload{wide, star, apex}) {
			t.Errorf("there are %s; %s was to be replaced", got, www.ID)
		}
		again := w.upload(t, "*.example.com")
		all := w.upload(t, "example.com", "*.example.com", "*.shop.example.com")
		if got := ids(w.uploaded(t)); got != all.ID {
			t.Errorf("there are %s, and among them %s", got, again.ID)
		}
	})
}

func ids(all []Upload) string {
	var words []string
	for _, u := range all {
		words = append(words, u.ID)
	}
	return strings.Join(words, " ")
}

func TestTooMany(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		names := make([]string, Max+5)
		for i := range names {
			names[i] = fmt.Sprintf("n%d.example.com", i)
		}
		w.hold(t, names...)
		var all sync.WaitGroup
		refused := make(chan error, len(names))
		for _, name := range names {
			chain, key := w.ca.Files(t, certificatetest.Leaf(name))
			all.Go(func() {
				_, err := w.Upload(t.Context(), w.ours, w.site, chain, key)
				refused <- err
			})
		}
		all.Wait()
		close(refused)
		many := 0
		for err := range refused {
			if errors.Is(err, ErrTooMany) {
				many++
			} else if err != nil {
				t.Error(err)
			}
		}
		if many != 5 || len(w.uploaded(t)) != Max {
			t.Errorf("%d were refused, %d are there", many, len(w.uploaded(t)))
		}
	})
}

// TestPurge is case H08: keys are destroyed with the site.
func TestPurge(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.upload(t, "example.com")
		w.report(t, now, good("example.com", now.Add(30*oneDay)))
		w.exec(t, `DELETE FROM sites WHERE organization_id = $1 AND id = $2`, w.ours, w.site)
		if n := w.count(t, `SELECT (SELECT COUNT(*) FROM uploaded_certificates) + (SELECT COUNT(*) FROM certificates)`); n != 0 {
			t.Errorf("%d rows are left", n)
		}
	})
}
