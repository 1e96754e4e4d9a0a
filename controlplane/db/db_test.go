package db_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
)

func set(t testing.TB, d *db.DB, name, value string) {
	t.Helper()
	err := db.InTx(t.Context(), d, func(tx *db.Tx) error { return put(t.Context(), tx, name, value) })
	if err != nil {
		t.Fatal(err)
	}
}

func put(ctx context.Context, tx *db.Tx, name, value string) error {
	_, err := tx.Exec(ctx, `INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = $2`, name, value)
	return err
}

func get(t testing.TB, d *db.DB, name string) string {
	t.Helper()
	var v string
	err := d.Reader().QueryRow(t.Context(), `SELECT value FROM settings WHERE name = $1`, name).Scan(&v)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		t.Fatal(err)
	}
	return v
}

func TestInTx(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		t.Run("an error undoes everything and runs no hook", func(t *testing.T) {
			hook := false
			want := errors.New("changed my mind")
			err := db.InTx(ctx, d, func(tx *db.Tx) error {
				tx.AfterCommit(func() { hook = true })
				if err := put(ctx, tx, "a", "1"); err != nil {
					return err
				}
				return want
			})
			if !errors.Is(err, want) || hook || get(t, d, "a") != "" {
				t.Errorf("err %v, hook ran %v, value %q", err, hook, get(t, d, "a"))
			}
		})
		t.Run("a commit is seen by readers before the hook runs", func(t *testing.T) {
			seen := ""
			err := db.InTx(ctx, d, func(tx *db.Tx) error {
				tx.AfterCommit(func() { seen = get(t, d, "b") })
				return put(ctx, tx, "b", "2")
			})
			if err != nil || seen != "2" {
				t.Errorf("err %v, the hook saw %q", err, seen)
			}
		})
		t.Run("a panic is one failed transaction, and the next one works", func(t *testing.T) {
			err := db.InTx(ctx, d, func(tx *db.Tx) error {
				if err := put(ctx, tx, "c", "3"); err != nil {
					return err
				}
				panic("boom")
			})
			if err == nil || !strings.Contains(err.Error(), "boom") {
				t.Errorf("got %v", err)
			}
			set(t, d, "d", "4")
			if get(t, d, "c") != "" {
				t.Error("the panicking transaction left something behind")
			}
		})
		t.Run("a goroutine that ends inside leaves no lock behind", func(t *testing.T) {
			var wg sync.WaitGroup
			wg.Go(func() {
				defer func() { recover() }() //nolint:errcheck // nothing panics
				_ = db.InTx(ctx, d, func(tx *db.Tx) error {
					if err := put(ctx, tx, "g", "1"); err != nil {
						return err
					}
					runtimeGoexit()
					return nil
				})
			})
			wg.Wait()
			set(t, d, "h", "1")
			if get(t, d, "g") != "" {
				t.Error("the ended transaction left something behind")
			}
		})
		t.Run("a caller that left starts nothing", func(t *testing.T) {
			gone, cancel := context.WithCancel(ctx)
			cancel()
			err := db.InTx(gone, d, func(tx *db.Tx) error { return put(ctx, tx, "e", "5") })
			if !errors.Is(err, context.Canceled) || get(t, d, "e") != "" {
				t.Errorf("got %v, %q", err, get(t, d, "e"))
			}
		})
		t.Run("read-modify-write of many callers loses no update", func(t *testing.T) {
			set(t, d, "n", "0")
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for range 10 {
						for {
							err := db.InTx(ctx, d, func(tx *db.Tx) error {
								var n int
								if err := tx.QueryRow(ctx, `SELECT value FROM settings WHERE name = 'n'`).Scan(&n); err != nil {
									return err
								}
								return put(ctx, tx, "n", fmt.Sprint(n+1))
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
			wg.Wait()
			if got := get(t, d, "n"); got != "80" {
				t.Errorf("80 increments gave %s", got)
			}
		})
		t.Run("one failing among many that share a commit fails alone", func(t *testing.T) {
			var wg sync.WaitGroup
			for i := range 40 {
				wg.Go(func() {
					err := db.InTx(ctx, d, func(tx *db.Tx) error {
						if err := put(ctx, tx, fmt.Sprintf("m%d", i), "x"); err != nil {
							return err
						}
						if i%4 == 0 {
							return errors.New("no")
						}
						return nil
					}, db.ReadCommitted())
					if (err != nil) != (i%4 == 0) {
						t.Errorf("member %d: %v", i, err)
					}
				})
			}
			wg.Wait()
			for i := range 40 {
				if there := get(t, d, fmt.Sprintf("m%d", i)) == "x"; there == (i%4 == 0) {
					t.Errorf("member %d: there %v", i, there)
				}
			}
		})
		t.Run("broken constraints are told apart", func(t *testing.T) {
			insert := func(name string) error {
				return db.InTx(ctx, d, func(tx *db.Tx) error {
					_, err := tx.Exec(ctx, `INSERT INTO settings (name, value) VALUES ($1, '')`, name)
					return err
				})
			}
			if err := errors.Join(insert("u1")); err != nil {
				t.Fatal(err)
			}
			if err := insert("u1"); !db.IsUnique(err) || db.IsForeignKey(err) {
				t.Errorf("got %v", err)
			}
			err := db.InTx(ctx, d, func(tx *db.Tx) error {
				_, err := tx.Exec(ctx, `INSERT INTO members (organization_id, account_id, role, all_sites, created_at) VALUES ('x', 'y', 'owner', TRUE, 0)`)
				return err
			})
			if !db.IsForeignKey(err) || db.IsUnique(err) {
				t.Errorf("got %v", err)
			}
		})
	})
}

func TestRead(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		t.Run("placeholders may come in any order and more than once", func(t *testing.T) {
			var a, b, c string
			err := d.Reader().QueryRow(t.Context(), `SELECT CAST($2 AS TEXT), CAST($1 AS TEXT), CAST($2 AS TEXT)`, "one", "two").Scan(&a, &b, &c)
			if err != nil || a != "two" || b != "one" || c != "two" {
				t.Errorf("got %q %q %q, %v", a, b, c, err)
			}
		})
		t.Run("a closed database is unavailable, not a bug", func(t *testing.T) {
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			err := db.InTx(t.Context(), d, func(tx *db.Tx) error { return put(t.Context(), tx, "z", "1") })
			if fault.KindOf(err) != fault.KindUnavailable {
				t.Errorf("write: %v", err)
			}
		})
	})
}

func TestSeal(t *testing.T) {
	d, err := db.Open(t.Context(), dbtest.SQLiteURL(t)) // without the key that dbtest gives
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	in := func(fn func(tx *db.Tx)) {
		t.Helper()
		if err := db.InTx(t.Context(), d, func(tx *db.Tx) error { fn(tx); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	a, b, ab := []byte("a"), []byte("b"), []byte("ab")
	in(func(tx *db.Tx) {
		if tx.CheckSeal(tx.Seal(a), a) {
			t.Error("something is sealed without a key")
		}
	})
	d.SetSealKey([]byte("key one"))
	var seal []byte
	in(func(tx *db.Tx) {
		seal = tx.Seal(a, b)
		if !tx.CheckSeal(seal, a, b) {
			t.Error("a seal does not hold")
		}
		for _, parts := range [][][]byte{{ab}, {ab, nil}, {b, a}, {a, b, nil}, {a}, nil} {
			if tx.CheckSeal(seal, parts...) {
				t.Errorf("the seal of a, b holds for %q", parts)
			}
		}
	})
	d.SetSealKey([]byte("key two"))
	in(func(tx *db.Tx) {
		if tx.CheckSeal(seal, a, b) {
			t.Error("a seal holds under another key")
		}
	})
}

func TestMigrate(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		t.Run("a second time changes nothing", func(t *testing.T) {
			if err := db.Migrate(ctx, d); err != nil {
				t.Fatal(err)
			}
			have, newest, err := db.Version(ctx, d)
			if err != nil || have != newest {
				t.Errorf("have %d, newest %d, %v", have, newest, err)
			}
		})
		t.Run("a database ahead of the program is refused", func(t *testing.T) {
			err := db.InTx(ctx, d, func(tx *db.Tx) error {
				_, err := tx.Exec(ctx, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9000, TRUE)`)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Migrate(ctx, d); !errors.Is(err, db.ErrNewer) {
				t.Errorf("got %v", err)
			}
		})
	})
}

func TestOpen(t *testing.T) {
	t.Run("the file is for its owner only", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "x.db")
		d, err := db.Open(t.Context(), "sqlite:"+path)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if err := db.Migrate(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		set(t, d, "a", "1")
		for _, suffix := range []string{"", "-wal", "-shm"} {
			fi, err := os.Stat(path + suffix)
			if err != nil {
				t.Fatal(err)
			}
			if fi.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v", suffix, fi.Mode())
			}
		}
	})
	t.Run("writes are durable and keys are enforced", func(t *testing.T) {
		d := dbtest.SQLite(t)
		err := db.InTx(t.Context(), d, func(tx *db.Tx) error {
			for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal", "foreign_keys": "1"} {
				var got string
				if err := tx.QueryRow(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
					t.Errorf("%s is %q, %v", pragma, got, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Run("readers cannot write", func(t *testing.T) {
		d := dbtest.SQLite(t)
		var name string
		err := d.Reader().QueryRow(t.Context(), `INSERT INTO settings (name, value) VALUES ('x', 'y') RETURNING name`).Scan(&name)
		if err == nil || get(t, d, "x") != "" {
			t.Errorf("err %v, wrote %q", err, get(t, d, "x"))
		}
	})
	t.Run("an unknown engine is refused", func(t *testing.T) {
		if _, err := db.Open(t.Context(), "mysql://x"); err == nil {
			t.Error("opened")
		}
	})
	t.Run("a server that is away is unavailable", func(t *testing.T) {
		url := dbtest.PostgresURL(t)
		d := dbtest.Open(t, url)
		set(t, d, "a", "1")
		killSessions(t, url)
		// The pool may hold several dead connections; each call drops one.
		deadline := time.Now().Add(10 * time.Second)
		for {
			err := db.InTx(t.Context(), d, func(tx *db.Tx) error { return put(t.Context(), tx, "a", "2") })
			if err == nil {
				break
			}
			if fault.KindOf(err) != fault.KindUnavailable {
				t.Fatalf("got %v", err)
			}
			if time.Now().After(deadline) {
				t.Fatal("never came back")
			}
		}
	})
}

func TestForUpdate(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		set(t, d, "n", "0")
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				err := db.InTx(t.Context(), d, func(tx *db.Tx) error {
					var n int
					err := tx.QueryRow(t.Context(), `SELECT CAST(value AS INTEGER) FROM settings WHERE name = 'n'`+tx.ForUpdate()).Scan(&n)
					if err != nil {
						return err
					}
					return put(t.Context(), tx, "n", fmt.Sprint(n+1))
				}, db.ReadCommitted())
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := get(t, d, "n"); n != "20" {
			t.Errorf("20 were to add one, and it is %s: some read what others were about to change", n)
		}
	})
}

func TestListen(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		heard := listen(t, d)
		t.Run("a hint comes after its commit", func(t *testing.T) {
			err := db.InTx(t.Context(), d, func(tx *db.Tx) error {
				tx.Notify("task", "t1")
				tx.Notify("task", "t1")
				if heard.count("task", "t1") != 0 {
					t.Error("heard before the commit")
				}
				return put(t.Context(), tx, "a", "1")
			})
			if err != nil || heard.count("task", "t1") != 1 {
				t.Errorf("heard %d times, %v", heard.count("task", "t1"), err)
			}
		})
		t.Run("a transaction that failed gives no hint", func(t *testing.T) {
			_ = db.InTx(t.Context(), d, func(tx *db.Tx) error {
				tx.Notify("task", "t2")
				return errors.New("no")
			})
			if heard.count("task", "t2") != 0 {
				t.Error("heard")
			}
		})
	})
	t.Run("another process hears it too, also after its connection was cut", func(t *testing.T) {
		url := dbtest.PostgresURL(t)
		here, there := dbtest.Open(t, url), dbtest.Open(t, url)
		heard := listen(t, there)
		eventually(t, func() bool { return heard.count("", "") > 0 })
		here.Notify("server", "s1")
		eventually(t, func() bool { return heard.count("server", "s1") == 1 })
		killSessions(t, url)
		eventually(t, func() bool { return heard.count("", "") > 1 }) // the reconnect says that hints may be lost
		eventually(t, func() bool {
			here.Notify("server", "s2")
			return heard.count("server", "s2") > 0
		})
	})
	t.Run("one that is alone tells nobody, until another one comes", func(t *testing.T) {
		url := dbtest.PostgresURL(t)
		wire, first := tap(t, url), dbtest.Open(t, url)
		heard := listen(t, first)
		eventually(t, func() bool { return strings.Contains(wire.all(), `"h":null`) }) // its greeting
		time.Sleep(1100 * time.Millisecond)                                            // and nobody answers
		first.Notify("server", "s1")
		first.Notify("server", "s2")
		eventually(t, func() bool { return heard.count("server", "s2") == 1 })
		time.Sleep(100 * time.Millisecond)
		if text := wire.all(); strings.Contains(text, "s2") {
			t.Errorf("it said %s", text)
		}
		second := dbtest.Open(t, url)
		also := listen(t, second)
		eventually(t, func() bool { return also.count("", "") > 1 }) // it began to listen, and was answered
		first.Notify("server", "s3")
		second.Notify("server", "s4")
		eventually(t, func() bool { return also.count("server", "s3") == 1 && heard.count("server", "s4") == 1 })
	})
}

func BenchmarkInTx(b *testing.B) {
	for name, open := range map[string]func(testing.TB) *db.DB{"sqlite": dbtest.SQLite, "postgres": dbtest.Postgres} {
		for _, writers := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/%d", name, writers), func(b *testing.B) {
				d := open(b)
				set(b, d, "a", "0")
				var left atomic.Int64
				left.Store(int64(b.N))
				b.ResetTimer()
				var wg sync.WaitGroup
				for w := range writers {
					wg.Go(func() {
						for left.Add(-1) >= 0 {
							err := db.InTx(b.Context(), d, func(tx *db.Tx) error {
								return put(b.Context(), tx, fmt.Sprintf("w%d", w), "x")
							}, db.ReadCommitted())
							if err != nil {
								b.Error(err)
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}
