package secret_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/secret"
)

// seeds is a column of people's, without an organization.
var seeds = secret.Column{Table: "seeds", Column: "seed", Row: "id"}

var columns = []secret.Column{secret.ValuesColumn, seeds}

// In another process, the test binary rotates and is killed.
const rotateVariable = "CHOM_TEST_ROTATE"

func TestMain(m *testing.M) {
	if job := os.Getenv(rotateVariable); job != "" {
		if err := rotateAndDie(job); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// rotateAndDie dies by SIGKILL right after one of its steps; step 0 is none.
func rotateAndDie(job string) error {
	parts := strings.Split(job, "|")
	dieAt, err := strconv.Atoi(parts[2])
	if err != nil {
		return err
	}
	ctx := context.Background()
	d, err := db.Open(ctx, parts[0])
	if err != nil {
		return err
	}
	defer d.Close()
	d.SetSealKey([]byte("the key of all tests"))
	k, err := secret.Open(ctx, d, secret.NewFile(parts[1]), slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	step := 0
	return secret.Rotate(ctx, d, k, columns, func(text string) {
		fmt.Println(text)
		if step++; step == dieAt {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	})
}

// vault is a model of what must be there, beside what is.
type vault struct {
	t      *testing.T
	d      *db.DB
	keys   *secret.Keyring
	values *secret.Values
	tenant string

	mu    sync.Mutex
	model map[string]string
}

// write puts a new value under a name: names that begin with "seed" are rows of seeds.
func (v *vault) write(ctx context.Context, name string) error {
	value := canary + " of " + name + " " + uuid.NewString()
	err := db.InTx(ctx, v.d, func(tx *db.Tx) error {
		if !strings.HasPrefix(name, "seed") {
			return v.values.Put(ctx, tx, v.tenant, name, secret.New([]byte(value)))
		}
		sealed, err := v.keys.Seal(secret.Place{Organization: secret.Platform, Table: "seeds", Column: "seed", Row: name}, []byte(value))
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO seeds (id, seed) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET seed = excluded.seed`, name, sealed)
		return err
	})
	if err == nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.model[name] = value
	}
	return err
}

func (v *vault) read(ctx context.Context, k *secret.Keyring, name string) (string, error) {
	if !strings.HasPrefix(name, "seed") {
		value, err := secret.NewValues(k).Get(ctx, v.d.Reader(), v.tenant, name)
		return string(value.Reveal()), err
	}
	var sealed []byte
	if err := v.d.Reader().QueryRow(ctx, `SELECT seed FROM seeds WHERE id = $1`, name).Scan(&sealed); err != nil {
		return "", err
	}
	plain, err := k.Open(secret.Place{Organization: secret.Platform, Table: "seeds", Column: "seed", Row: name}, sealed)
	return string(plain), err
}

// writers change values and read them back, each its own, until they are stopped.
func (v *vault) writers(n int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				name := fmt.Sprintf("%s-%d-%d", []string{"value", "seed"}[rand.N(2)], i, rand.N(10))
				if err := v.write(context.WithoutCancel(ctx), name); err != nil {
					v.t.Errorf("write %s: %v", name, err)
				}
				v.mu.Lock()
				want := v.model[name]
				v.mu.Unlock()
				if got, err := v.read(context.WithoutCancel(ctx), v.keys, name); err != nil || got != want {
					v.t.Errorf("%s is %q, %v; want %q", name, got, err, want)
				}
				time.Sleep(rand.N(10 * time.Millisecond))
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

// check reads everything, and says which versions sealed it.
func (v *vault) check(k *secret.Keyring) []uint32 {
	v.t.Helper()
	for name, want := range v.model {
		if got, err := v.read(v.t.Context(), k, name); err != nil || got != want {
			v.t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
	checked, err := secret.Check(v.t.Context(), v.d, k, columns)
	must(v.t, err)
	total, versions := 0, []uint32{}
	for version, values := range checked.Values {
		versions = append(versions, version)
		total += values
	}
	if len(checked.Unreadable) > 0 || total != len(v.model) {
		v.t.Errorf("%d values of %d open, %v", total, len(v.model), checked.Unreadable)
	}
	slices.Sort(versions)
	return versions
}

// TestRotate is case B15: eight writers, two rotations, and a kill after each of their steps.
func TestRotate(t *testing.T) {
	for engine, url := range map[string]string{"sqlite": dbtest.SQLiteURL(t), "postgres": dbtest.PostgresURL(t)} {
		t.Run(engine, func(t *testing.T) {
			d := dbtest.Open(t, url)
			path := filepath.Join(t.TempDir(), "secrets.key")
			run(t, d, `CREATE TABLE seeds (id TEXT PRIMARY KEY, seed BYTEA)`)
			run(t, d, `INSERT INTO seeds (id) VALUES ('nobody''s')`) // who has none is left alone
			keys := open(t, d, path)
			v := &vault{t: t, d: d, keys: keys, values: secret.NewValues(keys), tenant: uuid.NewString(), model: map[string]string{}}
			for i := range 500 {
				must(t, v.write(t.Context(), fmt.Sprintf("value-quiet-%d", i)))
				must(t, v.write(t.Context(), fmt.Sprintf("seed-quiet-%d", i)))
			}
			stop := v.writers(8)
			kills := map[string]int{}
			for _, rotation := range []uint32{2, 3} {
				for _, dieAt := range []int{1, 1, 2, 3, 4, 5, 0} {
					text, killed := rotateElsewhere(t, url, path, dieAt)
					if killed != (dieAt > 0) {
						t.Errorf("the rotation to version %d, to die after step %d: %s", rotation, dieAt, text)
					}
					if killed {
						lines := strings.Split(strings.TrimSpace(text), "\n")
						kills[kindOf(lines[len(lines)-1])]++
					}
				}
				if newest := keys.Keys(); newest[len(newest)-1].Version != rotation || newest[len(newest)-1].Pending {
					t.Errorf("the newest key is version %d", newest[len(newest)-1].Version)
				}
			}
			stop()
			for _, step := range []string{"is in the file", "is known to the database", "seals", "sealed anew"} {
				if kills[step] < 2 {
					t.Errorf("%d kills after %q: %v", kills[step], step, kills)
				}
			}
			versions := v.check(keys)
			if len(versions) > 1 { // somebody sealed before, and committed after the last sweep
				must(t, secret.Rotate(t.Context(), d, keys, columns, func(string) {}))
				versions = v.check(keys)
			}
			if !slices.Equal(versions, []uint32{3}) {
				t.Errorf("sealed by the versions %v", versions)
			}

			if _, err := secret.Prune(t.Context(), d, keys, columns); !errors.Is(err, secret.ErrTooSoon) {
				t.Errorf("pruned right after: %v", err)
			}
			age(t, path)
			if old, err := secret.Prune(t.Context(), d, keys, columns); err != nil || !slices.Equal(old, []uint32{1, 2}) {
				t.Errorf("pruned %v, %v", old, err)
			}
			if old, err := secret.Prune(t.Context(), d, keys, columns); err != nil || len(old) != 0 {
				t.Errorf("pruned again %v, %v", old, err)
			}
			fresh := open(t, d, path)
			if left := fresh.Keys(); len(left) != 1 || left[0].Version != 3 {
				t.Errorf("%d keys are left", len(left))
			}
			v.check(fresh)
			for _, dir := range []string{filepath.Dir(path), filepath.Dir(strings.TrimPrefix(url, "sqlite:"))} {
				noCanary(t, dir)
			}
		})
	}
}

// kindOf is a step's text without its numbers.
func kindOf(step string) string {
	for _, kind := range []string{"is in the file", "is known to the database", "sealed anew", "seals"} {
		if strings.Contains(step, kind) {
			return kind
		}
	}
	return step
}

func rotateElsewhere(t *testing.T, url, path string, dieAt int) (text string, killed bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%d", rotateVariable, url, path, dieAt))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	keys, errRead := os.ReadFile(path)
	must(t, errRead)
	for _, word := range append(strings.Fields(string(keys)), canary) { // case A16
		if (len(word) > 40 || word == canary) && strings.Contains(out.String(), word) {
			t.Errorf("the output shows a secret: %s", out.String())
		}
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
			return out.String(), true
		}
	}
	if err != nil {
		t.Errorf("rotate: %v: %s", err, out.String())
	}
	return out.String(), false
}

// age makes all keys an hour older, as if the rotation was long ago.
func age(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	text = regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:]+Z`).ReplaceAll(text, []byte(time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)))
	must(t, os.WriteFile(path, text, 0o600))
}

func run(t *testing.T, d *db.DB, statement string) {
	t.Helper()
	must(t, db.InTx(t.Context(), d, func(tx *db.Tx) error {
		_, err := tx.Exec(t.Context(), statement)
		return err
	}))
}

func noCanary(t *testing.T, dir string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		return // the URL of PostgreSQL is no folder
	}
	for _, file := range files {
		if text, err := os.ReadFile(filepath.Join(dir, file.Name())); err == nil && bytes.Contains(text, []byte(canary)) {
			t.Errorf("%s holds a secret in clear", file.Name())
		}
	}
}
