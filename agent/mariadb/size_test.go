package mariadb

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"chom.dev/proto/contract"
)

func TestSize(t *testing.T) {
	socket := start(t)
	s, err := New(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a, b := newTenant(t, socket), newTenant(t, socket)
	for _, u := range []tenant{a, b} {
		if err := s.Ensure(t.Context(), u.schema, u.user); err != nil {
			t.Fatal(err)
		}
	}
	size := func(schema contract.DBName) uint64 {
		t.Helper()
		n, there, err := s.Size(t.Context(), schema)
		if err != nil || !there {
			t.Fatalf("%t, %v", there, err)
		}
		return n
	}
	sql := func(statement string) {
		t.Helper()
		if out, err := a.sql("USE " + a.schema.String() + "; " + statement); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	neighbour := size(b.schema)
	sql("CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, x LONGBLOB); CREATE TABLE other (x LONGTEXT) ENGINE=Aria")
	before := size(a.schema)
	sql("INSERT INTO t (x) SELECT RANDOM_BYTES(1000) FROM seq_1_to_8000; INSERT INTO other SELECT REPEAT(MD5(RAND()), 100) FROM seq_1_to_1000")
	t.Run("is what the schema's files take", func(t *testing.T) {
		var data string
		if err := s.db.QueryRowContext(t.Context(), "SELECT @@datadir").Scan(&data); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("/usr/bin/du", "-s", "-B1", filepath.Join(data, a.schema.String())).Output()
		if err != nil {
			t.Fatal(err)
		}
		want, err := strconv.ParseUint(strings.Fields(string(out))[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got := size(a.schema); got != want || got < before+11_000_000 {
			t.Errorf("%d bytes, du says %d, before it was %d", got, want, before)
		}
	})
	t.Run("shrinks with a table that is dropped", func(t *testing.T) {
		sql("DROP TABLE t")
		if got := size(a.schema); got > before+8_000_000 {
			t.Errorf("%d bytes, before it was %d", got, before)
		}
	})
	t.Run("is nothing of a neighbour's", func(t *testing.T) {
		if got := size(b.schema); got != neighbour {
			t.Errorf("%d bytes, before it was %d", got, neighbour)
		}
	})
	t.Run("there is none without a schema", func(t *testing.T) {
		if n, there, err := s.Size(t.Context(), contract.NewHandle().DBName()); n != 0 || there || err != nil {
			t.Errorf("%d, %t, %v", n, there, err)
		}
	})
	t.Run("a link in the place of a schema is not followed", func(t *testing.T) {
		data := t.TempDir()
		if err := errors.Join(os.Mkdir(data+"/real", 0o700), os.Symlink("real", data+"/schema"), os.Symlink("/usr/bin", data+"/real/bin")); err != nil {
			t.Fatal(err)
		}
		if n, err := sizeOf(t.Context(), data, "schema"); err == nil {
			t.Errorf("%d bytes", n)
		}
		if n, err := sizeOf(t.Context(), data, "real"); err != nil || n > 1<<16 {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
	t.Run("says so when the server does not answer", func(t *testing.T) {
		away, err := New(filepath.Join(t.TempDir(), "none.sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer away.Close()
		if _, there, err := away.Size(t.Context(), a.schema); err == nil || there {
			t.Errorf("%t, %v", there, err)
		}
	})
}
