package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/outbox"
	"chom.dev/controlplane/page"
)

func TestMail(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		k := newSink(t, false)
		m := newMails(t, d, k.sender(t, StartTLS))
		run(t, d, m)
		id := ask(t, d, m, "Anna@example.com", TemplateInvitation)
		if s := ends(t, m, id, outbox.Sent); s.Tries != 1 || s.To != "Anna@example.com" || s.Template != TemplateInvitation || s.Organization != Platform || s.Ended.IsZero() {
			t.Errorf("it is %+v", s)
		}
		got := k.got()
		if len(got) != 1 {
			t.Fatalf("%d mails arrived", len(got))
		}
		for name, want := range map[string]string{
			"From": `"CHOM" <chom@example.com>`, "To": "<Anna@example.com>", "Subject": "Invitation to acme", "Message-Id": "<" + id + "@example.com>",
			"Auto-Submitted": "auto-generated", "X-Auto-Response-Suppress": "All",
		} {
			if have := got[0].Header.Get(name); have != want {
				t.Errorf("%s: %s", name, have)
			}
		}
		parts := partsOf(t, got[0].Header.Get("Content-Type"), got[0].Body)
		text, err := Preview(TemplateInvitation, publicURL, false)
		must(t, err)
		page, err := Preview(TemplateInvitation, publicURL, true)
		must(t, err)
		if want := strings.TrimPrefix(text, "Subject: Invitation to acme\n\n"); parts["text/plain"] != want || parts["text/html"] != page {
			t.Errorf("it says\n%s\n%s", parts["text/plain"], parts["text/html"])
		}
		t.Run("its values are gone once it was sent", func(t *testing.T) {
			var left int
			must(t, d.Reader().QueryRow(t.Context(), `SELECT COUNT(*) FROM mails WHERE sealed_values IS NOT NULL`).Scan(&left))
			if left != 0 {
				t.Error("they are still there")
			}
		})
	})
}

// partsOf reads a multipart/alternative body, with the line ends of text files.
func partsOf(t *testing.T, contentType string, body io.Reader) map[string]string {
	t.Helper()
	kind, params, err := mime.ParseMediaType(contentType)
	must(t, err)
	if kind != "multipart/alternative" {
		t.Fatalf("it is %s", kind)
	}
	parts := map[string]string{}
	for reader := multipart.NewReader(body, params["boundary"]); ; {
		part, err := reader.NextRawPart()
		if errors.Is(err, io.EOF) {
			return parts
		}
		must(t, err)
		if part.Header.Get("Content-Transfer-Encoding") != "quoted-printable" {
			t.Fatalf("a part is %v", part.Header)
		}
		text, err := io.ReadAll(quotedprintable.NewReader(part))
		must(t, err)
		kind, _, err := mime.ParseMediaType(part.Header.Get("Content-Type"))
		must(t, err)
		parts[kind] = strings.ReplaceAll(string(text), "\r\n", "\n")
	}
}

func TestEnqueue(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		m := newMails(t, d, nil)
		for name, wrong := range map[string]Mail{
			"an unknown template":       {To: email(t, "a@example.com"), Template: "nonsense"},
			"no recipient":              {Template: TemplateTest},
			"a value that is not shown": {To: email(t, "a@example.com"), Template: TemplateTest, Values: map[string]string{"link": publicURL}},
			"a missing value":           {To: email(t, "a@example.com"), Template: TemplateVerifyEmail},
			"a link elsewhere":          {To: email(t, "a@example.com"), Template: TemplateVerifyEmail, Values: map[string]string{"link": "https://evil.example/secret"}},
			"a time in words":           {To: email(t, "a@example.com"), Template: TemplateOrganizationClosing, Values: map[string]string{"organization": "x", "closer": "x", "close_time": "soon", "link": publicURL}},
		} {
			err := db.InTx(t.Context(), d, func(tx *db.Tx) error { return m.Enqueue(t.Context(), tx, wrong) })
			if err == nil || fault.KindOf(err) != fault.KindInternal || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: %v", name, err)
			}
		}
		t.Run("leaves nothing of a transaction that failed", func(t *testing.T) {
			undone := errors.New("undone")
			err := db.InTx(t.Context(), d, func(tx *db.Tx) error {
				if err := m.Enqueue(t.Context(), tx, Mail{To: email(t, "a@example.com"), Template: TemplateTest}); err != nil {
					return err
				}
				return undone
			})
			if n := count1(t, d, `SELECT (SELECT COUNT(*) FROM mails) + (SELECT COUNT(*) FROM outbox) + (SELECT COUNT(*) FROM mail_counts)`); n != 0 || !errors.Is(err, undone) {
				t.Errorf("%d rows, %v", n, err)
			}
		})
		t.Run("lets so many through and no more, however many ask at once", func(t *testing.T) {
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					for range 5 {
						for { // who loses against others asks again, as callers do
							err := db.InTx(t.Context(), d, func(tx *db.Tx) error {
								return m.Enqueue(t.Context(), tx, Mail{To: email(t, "bomb@example.com"), Template: TemplateResetPassword, Values: sample(TemplateResetPassword)})
							})
							if fault.KindOf(err) == fault.KindUnavailable {
								continue
							}
							if err != nil {
								t.Error(err)
							}
							break
						}
					}
				})
			}
			all.Wait()
			ask(t, d, m, "BOMB@example.com", TemplateResetPassword) // the same mailbox for all that we know
			if n := count1(t, d, `SELECT COUNT(*) FROM mails WHERE LOWER(recipient) = 'bomb@example.com'`); n != fromStrangers {
				t.Errorf("%d mails were queued", n)
			}
			if ask(t, d, m, "bomb@example.com", TemplateVerifyEmail) == "" || ask(t, d, m, "other@example.com", TemplateResetPassword) == "" {
				t.Error("another template, or another mailbox, is full as well")
			}
			change(t, d, `UPDATE mail_counts SET hour = hour - 1`)
			if ask(t, d, m, "bomb@example.com", TemplateResetPassword) == "" {
				t.Error("an hour later it is still full")
			}
		})
		t.Run("stores no link that anybody could use", func(t *testing.T) { // case B10
			dump := dump(t, d)
			if !strings.Contains(dump, "bomb@example.com") {
				t.Fatal("the dump is not one")
			}
			for _, clear := range []string{"token=", "0123456789", publicURL} {
				if strings.Contains(dump, clear) {
					t.Errorf("the database holds %q in clear", clear)
				}
			}
		})
		t.Run("what is sealed for one mail opens in no other", func(t *testing.T) {
			a, b := ask(t, d, m, "a@example.com", TemplateVerifyEmail), ask(t, d, m, "b@example.com", TemplateVerifyEmail)
			change(t, d, `UPDATE mails SET sealed_values = (SELECT sealed_values FROM mails WHERE id = $1) WHERE id = $2`, a, b)
			if _, err := m.compose(t.Context(), outbox.Item{ID: b}); err == nil || !strings.Contains(err.Error(), "could not be opened") {
				t.Errorf("got %v", err)
			}
		})
	})
}

func change(t *testing.T, d *db.DB, query string, args ...any) {
	t.Helper()
	must(t, db.InTx(t.Context(), d, func(tx *db.Tx) error { _, err := tx.Exec(t.Context(), query, args...); return err }))
}

func count1(t *testing.T, d *db.DB, query string, args ...any) (n int) {
	t.Helper()
	must(t, d.Reader().QueryRow(t.Context(), query, args...).Scan(&n))
	return n
}

// dump is all that this package stores.
func dump(t *testing.T, d *db.DB) string {
	t.Helper()
	var out strings.Builder
	for _, table := range []string{"mails", "outbox", "mail_counts"} {
		dumpTable(t, d, table, &out)
	}
	return out.String()
}

func dumpTable(t *testing.T, d *db.DB, table string, out io.Writer) {
	t.Helper()
	rows, err := d.Reader().Query(t.Context(), `SELECT * FROM `+table)
	must(t, err)
	defer rows.Close()
	names, err := rows.Columns()
	must(t, err)
	for rows.Next() {
		row := make([]any, len(names))
		for i := range row {
			row[i] = new(any)
		}
		must(t, rows.Scan(row...))
		for _, value := range row {
			fmt.Fprintf(out, "%s\n", *value.(*any)) // bytes and text alike
		}
	}
	must(t, rows.Err())
}

func TestWithoutServer(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		m := newMails(t, d, nil)
		run(t, d, m)
		id := ask(t, d, m, "a@example.com", TemplateTest)
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			s, err := m.Get(t.Context(), id)
			must(t, err)
			if s.State == outbox.Waiting && s.Problem == "no mail server is configured" && s.Tries == 0 && s.Next.After(time.Now()) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("it is %+v", s)
			}
		}
		o, err := m.Overview(t.Context())
		must(t, err)
		if o.Via != "" || o.Waiting != 1 || o.Dead != 0 || o.Oldest.IsZero() || o.Problem != "no mail server is configured" || o.From != `"CHOM" <chom@example.com>` {
			t.Errorf("the overview is %+v", o)
		}
	})
}

func TestRead(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		m := newMails(t, d, nil)
		var ids []string
		for i := range 5 {
			ids = append(ids, ask(t, d, m, fmt.Sprintf("user%d@example.com", i), TemplateTest))
		}
		change(t, d, `UPDATE outbox SET state = 'dead', error = '550 no such user', ended_at = 1 WHERE id = $1`, ids[1])

		first, next, err := m.List(t.Context(), 3, "", Filter{})
		must(t, err)
		rest, end, err := m.List(t.Context(), 3, next, Filter{})
		must(t, err)
		var seen []string
		for _, s := range append(first, rest...) {
			seen = append([]string{s.ID}, seen...)
		}
		if strings.Join(seen, " ") != strings.Join(ids, " ") || len(first) != 3 || end != "" {
			t.Errorf("listed %v of %v", seen, ids)
		}
		dead, _, err := m.List(t.Context(), 0, "", Filter{State: outbox.Dead})
		must(t, err)
		if len(dead) != 1 || dead[0].ID != ids[1] || dead[0].Problem != "550 no such user" {
			t.Errorf("the dead are %+v", dead)
		}
		if mine, _, err := m.List(t.Context(), 0, "", Filter{To: "USER3@example.com"}); err != nil || len(mine) != 1 || mine[0].ID != ids[3] {
			t.Errorf("those of one mailbox are %+v, %v", mine, err)
		}
		if _, _, err := m.List(t.Context(), 3, next, Filter{State: outbox.Dead}); fault.KindOf(err) != fault.KindInvalid {
			t.Errorf("with the token of another list: %v", err)
		}
		if _, _, err := m.List(t.Context(), page.MaxSize+1, "", Filter{}); fault.KindOf(err) != fault.KindInvalid {
			t.Errorf("a page too large: %v", err)
		}

		again, err := m.Retry(t.Context(), ids[1])
		if err != nil || again.State != outbox.Waiting || again.Tries != 0 || !again.Ended.IsZero() {
			t.Errorf("tried again it is %+v, %v", again, err)
		}
		if n := count1(t, d, `SELECT COUNT(*) FROM audit_events WHERE action = 'mail.retry' AND object = $1`, ids[1]); n != 1 {
			t.Errorf("%d audit events", n)
		}
		change(t, d, `UPDATE outbox SET state = 'sent' WHERE id = $1`, ids[2])
		change(t, d, `UPDATE outbox SET state = 'dead', ended_at = $2 WHERE id = $1`, ids[3], db.Micros(time.Now().Add(-retryFor-time.Minute)))
		must(t, m.keep(t.Context(), time.Now()))
		for id, want := range map[string]error{ids[2]: ErrSent, ids[3]: ErrExpired, "00000000-0000-7000-8000-000000000000": ErrNotFound} {
			if _, err := m.Retry(t.Context(), id); !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		}

		for range fromMembers {
			_, err = m.Test(t.Context(), email(t, "operator@example.com"))
			must(t, err)
		}
		if _, err := m.Test(t.Context(), email(t, "operator@example.com")); fault.KindOf(err) != fault.KindConflict {
			t.Errorf("one test too many: %v", err)
		}
	})
}

func TestDir(t *testing.T) {
	d := dbtest.SQLite(t)
	path := filepath.Join(t.TempDir(), "mails")
	dir, err := NewDir(path)
	must(t, err)
	m := newMails(t, d, dir)
	run(t, d, m)
	id := ask(t, d, m, "a@example.com", TemplateResetPassword)
	ends(t, m, id, outbox.Sent)
	written, err := os.ReadFile(filepath.Join(path, id+".eml"))
	must(t, err)
	if !strings.Contains(string(written), "Message-ID: <"+id+"@example.com>\r\n") || !strings.Contains(string(written), publicURL+"/a/page?token=3D0123456789") {
		t.Errorf("it is\n%s", written)
	}
	all, err := os.ReadDir(path)
	must(t, err)
	info, err := os.Stat(path)
	must(t, err)
	if len(all) != 1 || info.Mode().Perm() != 0o700 {
		t.Errorf("%d files in a directory of mode %s", len(all), info.Mode())
	}
	if err := dir.Send(context.Background(), must1(m.compose(t.Context(), outbox.Item{ID: ask(t, d, m, "b@example.com", TemplateTest)}))); err != nil {
		t.Error(err)
	}
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
