package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"chom.dev/agent/mariadb"
	"chom.dev/agent/run"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
)

// hostile is a schema with all that a dump must carry.
const hostile = "CREATE TABLE a (id INT PRIMARY KEY AUTO_INCREMENT, t TEXT, b BLOB, g INT AS (id+1) VIRTUAL);\n" +
	`INSERT INTO a (t,b) VALUES ('x),(\'y\\','\0\'"'),('l1\nl2\n-- Dump completed\n',NULL),('*/ /* -- # ;',''),('ends in \\','');` + "\n" +
	"CREATE TABLE `e``m;(*/` (x INT, d BIT(3), j JSON, f FLOAT) COMMENT 'a;b''c';\n" +
	"INSERT INTO `e``m;(*/` VALUES (1,b'101','{\"a\":\"(1),(2)\"}',-1.5e10);\n" +
	"CREATE TABLE `a\n-- Dump completed\nb` (x INT); INSERT INTO `a\n-- Dump completed\nb` VALUES (1),(2),(3);\n" +
	"CREATE TABLE `-x` (x INT); CREATE TABLE `größe` (x INT); INSERT INTO `größe` VALUES (1);\n" +
	"CREATE TABLE parts (id INT) PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN MAXVALUE); INSERT INTO parts VALUES (1),(11);\n" +
	"CREATE TABLE old (x INT) WITH SYSTEM VERSIONING; INSERT INTO old VALUES (1); UPDATE old SET x = 2;\n" +
	"CREATE SEQUENCE s START WITH 5; CREATE TABLE mine (x INT) ENGINE=MyISAM; INSERT INTO mine VALUES (1),(2);\n" +
	"CREATE VIEW v AS SELECT id FROM a; CREATE VIEW `v;2` AS SELECT * FROM v;\n" +
	"CREATE TABLE tr (x INT);\nDELIMITER ;;\nCREATE TRIGGER t1 BEFORE INSERT ON tr FOR EACH ROW BEGIN SET NEW.x = 1; END;;\n" +
	"CREATE PROCEDURE p1() BEGIN SELECT ';;\\n-- Dump completed\\n'; END;;\nCREATE FUNCTION f1() RETURNS INT DETERMINISTIC RETURN 3;;\n"

func TestBackup(t *testing.T) {
	w := newWorld(t, true)
	if there, err := w.manager.Exists(t.Context(), w.site); err != nil || there {
		t.Fatalf("before: %v, %v", there, err)
	}
	w.init()
	if there, err := w.manager.Exists(t.Context(), w.site); err != nil || !there {
		t.Fatalf("after: %v, %v", there, err)
	}
	w.sql(hostile)
	w.sh(`cd public; echo index > index.php; mkdir -p "a b/c"; printf x > "$(printf 'bad\377name')"; ln -s /etc/passwd link; mkfifo pipe
		head -c 3000000 /dev/urandom > big; chmod 600 index.php; printf secret > ../private/session`)
	c, err := w.backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c.End.Before(c.Start) || c.Files.Added < 3_000_000 || c.Database.Added == 0 {
		t.Errorf("made %+v", c)
	}

	t.Run("the repository is sound, and holds what was reported", func(t *testing.T) {
		w.t = t
		w.restic("check", "--read-data")
		var snapshots []struct{ ID string }
		if err := json.Unmarshal([]byte(w.restic("snapshots", "--json")), &snapshots); err != nil || len(snapshots) != 2 {
			t.Fatalf("%v, %v", snapshots, err)
		}
		for _, id := range []string{c.Files.ID, c.Database.ID} {
			if !slices.ContainsFunc(snapshots, func(s struct{ ID string }) bool { return s.ID == id }) {
				t.Errorf("there is no snapshot %s", id)
			}
		}
		if left := w.repository.Objects("locks"); len(left) != 0 {
			t.Errorf("locks are left: %v", left)
		}
	})
	t.Run("the dump is the one that was hashed, its tables and rows those of the server", func(t *testing.T) {
		w.t = t
		text := w.restic("dump", c.Database.ID, "/"+DatabaseFile)
		if sum := sha256.Sum256([]byte(text)); !bytes.Equal(sum[:], c.Database.SHA256) || len(text) != int(c.Database.Bytes) {
			t.Errorf("%d bytes with hash %x", len(text), sum)
		}
		want := []Table{
			{Name: "-x"}, {Name: "a", Rows: 4}, {Name: "a\n-- Dump completed\nb", Rows: 3}, {Name: "e`m;(*/", Rows: 1}, {Name: "größe", Rows: 1},
			{Name: "mine", Rows: 2}, {Name: "old", Rows: 1}, {Name: "parts", Rows: 2}, {Name: "s"}, {Name: "tr"},
		}
		got := slices.Clone(c.Database.Tables)
		slices.SortFunc(got, func(a, b Table) int { return strings.Compare(a.Name, b.Name) })
		if !slices.Equal(got, want) {
			t.Errorf("tables are %v", got)
		}
		tables, objects, found := strings.Cut(text, contract.ObjectsMark)
		if !found || strings.Contains(tables, "VIEW") || strings.Contains(tables, "TRIGGER") {
			t.Errorf("tables are not alone before the mark (%v)", found)
		}
		for _, what := range []string{"VIEW `v`", "VIEW `v;2`", "TRIGGER t1", "PROCEDURE `p1`", "FUNCTION `f1`"} {
			if !strings.Contains(objects, what) {
				t.Errorf("%s is missing after the mark", what)
			}
		}
		// Whole for the client, too: into an empty schema, and the same comes out.
		w.sql("DROP DATABASE " + w.site.Handle.DBName().String() + "; CREATE DATABASE " + w.site.Handle.DBName().String())
		w.sql(text)
		again, err := w.backup(t.Context())
		if err != nil || !slices.Equal(again.Database.Tables, c.Database.Tables) {
			t.Errorf("after it was read into an empty schema: %+v, %v", again.Database, err)
		}
	})
	t.Run("the listing is that of the files as they are", func(t *testing.T) {
		w.t = t
		got := listingAt(t, w.server, w.site, testKey, c.Files.ID)
		want := new(contract.Listing)
		for _, path := range []string{"public", "private", "public/index.php", "public/a b", "public/a b/c", "public/bad\xffname", "public/link", "public/big", "public/pipe", "private/session"} {
			st, err := os.Lstat(w.shell() + "/" + path)
			if err != nil {
				t.Fatal(err)
			}
			want.Add(contract.Listed{Path: path, Mode: st.Mode(), Size: uint64(st.Size()), MTime: st.ModTime()})
		}
		if !bytes.Equal(got.SHA256(), want.SHA256()) || got.Count() != want.Count() || got.Count() != 9 || got.Bytes() != want.Bytes() {
			t.Errorf("got %+v, want %d files, %d bytes, %x", got, want.Count(), want.Bytes(), want.SHA256())
		}
	})
	t.Run("another one adds what is new alone", func(t *testing.T) {
		w.t = t
		w.sh("echo more > public/more")
		again, err := w.backup(t.Context())
		if err != nil || again.Files.Added > 20_000 || again.Files.ID == c.Files.ID {
			t.Errorf("made %+v, %v", again, err)
		}
	})
	if n := w.keys.Load(); n != 1 {
		t.Errorf("the key was asked for %d times", n)
	}
}

// TestLinks: where links lead is recorded, and links that restic 0.14 damages without a word are named.
func TestLinks(t *testing.T) {
	w := newWorld(t, false)
	w.init()
	w.sh("ln -s ../x public/good; ln -s 'ü' private/other")
	good, err := w.backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := new(contract.Links)
	want.Add("private/other", "ü")
	want.Add("public/good", "../x")
	if l := good.Links; !bytes.Equal(l.SHA256, want.SHA256()) || l.Count != 0 || len(l.Unkept) > 0 {
		t.Errorf("recorded %+v, want %x", l, want.SHA256())
	}
	w.sh("ln -s $(printf 'bad-\\377') public/bad")
	made, err := w.backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if l := made.Links; !bytes.Equal(l.SHA256, want.SHA256()) || l.Count != 1 || !slices.Equal(l.Unkept, []string{"public/bad"}) {
		t.Errorf("recorded %+v", l)
	}
	if text := made.String(); !strings.HasSuffix(text, `1 links have targets that are not UTF-8, and may come back as other ones: "public/bad"`) {
		t.Errorf("it says %q", text)
	}
	r, err := State{Contents: made}.Report(contract.NewBackupID())
	if c := r.GetContents(); err != nil || c.GetUnkeptLinkCount() != 1 || !slices.Equal(c.GetUnkeptLinks(), made.Links.Unkept) || !bytes.Equal(c.GetLinksSha256(), want.SHA256()) {
		t.Errorf("reported %v, %v", c, err)
	}
	other := new(contract.Links)
	if l := linksOf(want, other); l.SHA256 != nil {
		t.Errorf("links that changed meanwhile are recorded: %+v", l)
	}
}

func TestEmptySite(t *testing.T) {
	w := newWorld(t, true)
	w.init()
	c, err := w.backup(t.Context())
	if err != nil || len(c.Database.Tables) != 0 || c.Database.ID == "" {
		t.Fatalf("made %+v, %v", c, err)
	}
	w.sql("CREATE VIEW only AS SELECT 1 AS x")
	if c, err = w.backup(t.Context()); err != nil || len(c.Database.Tables) != 0 {
		t.Fatalf("with a view alone: %+v, %v", c, err)
	}
	if text := w.restic("dump", c.Database.ID, "/"+DatabaseFile); !strings.Contains(text, "VIEW `only`") {
		t.Errorf("the view is missing in %s", text)
	}
}

func TestSiteWithoutDatabase(t *testing.T) {
	w := newWorld(t, false)
	w.init()
	w.sh("echo x > public/x")
	c, err := w.backup(t.Context())
	if err != nil || c.Database != nil || c.Files.ID == "" {
		t.Fatalf("made %+v, %v", c, err)
	}
	t.Run("the directories of the one before come together", func(t *testing.T) {
		w.sh("for d in $(seq 100); do mkdir public/$d; echo $d > public/$d/x; done")
		if _, err := w.backup(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := len(w.repository.Requests())
		again, err := w.backup(t.Context())
		if err != nil || again.Files.Added > 2000 {
			t.Errorf("nothing has changed, and it made %+v, %v", again, err)
		}
		n := 0
		for _, asked := range w.repository.Requests()[before:] {
			if strings.HasPrefix(asked, "GET /data/") {
				n++
			}
		}
		if n == 0 || n > 10 {
			t.Errorf("it asked for data %d times", n)
		}
		w.sh("rm -r public/[0-9]*")
	})
	t.Run("one that nobody waits for is made while the host is idle", func(t *testing.T) {
		idle := run.Property{Key: "CPUSchedulingPolicy", Value: "idle"}
		if slices.Contains(w.unit.Properties, idle) {
			t.Error("one that was asked for is")
		}
		if err := w.manager.Do(t.Context(), w.site, Work{
			Job: "backup", Timeout: time.Minute, Idle: true, Order: ContentsOrder{Backup: contract.NewBackupID().String()},
		}, nil, nil); err != nil || !slices.Contains(w.unit.Properties, idle) {
			t.Errorf("it has %v, %v", w.unit.Properties, err)
		}
	})
	t.Run("what can't be read fails it, by name", func(t *testing.T) {
		w.sh("echo x > public/closed; chmod 0 public/closed; mkdir public/shut; chmod 0 public/shut")
		_, err := w.backup(t.Context())
		if err == nil || !strings.Contains(err.Error(), "public/closed\"") || !strings.Contains(err.Error(), "public/shut\"") {
			t.Errorf("it says %v", err)
		}
		w.sh("chmod 700 public/closed public/shut")
	})
	t.Run("files that go while they are read fail nothing", func(t *testing.T) {
		w.sh("mkdir public/busy")
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for ctx.Err() == nil {
				for _, name := range []string{"a", "b", "c", "d"} {
					_ = os.WriteFile(w.shell()+"/public/busy/"+name, nil, 0o644)
				}
				for _, name := range []string{"a", "b", "c", "d"} {
					_ = os.Remove(w.shell() + "/public/busy/" + name)
				}
			}
		}()
		for range 3 {
			if _, err := w.backup(t.Context()); err != nil {
				t.Error(err)
			}
		}
		stop()
		<-ended
	})
	t.Run("another key does not open it", func(t *testing.T) {
		path := w.path("keys", w.site.Handle.String(), "key")
		if err := os.WriteFile(path, []byte(strings.Repeat("x", 43)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := w.backup(t.Context()); err == nil || !strings.Contains(err.Error(), "does not open with the site's key") || !task.IsPermanent(err) {
			t.Errorf("it says %v", err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a quota that is used up is said in the control plane's words, at once", func(t *testing.T) {
		w.repository.Fault = func(rw http.ResponseWriter, r *http.Request) bool {
			full := r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/data/")
			if full {
				http.Error(rw, "the quota of 5 GB for backups is used up", http.StatusInsufficientStorage)
			}
			return full
		}
		defer func() { w.repository.Fault = nil }()
		w.sh("head -c 100000 /dev/urandom > public/new")
		start := time.Now()
		_, err := w.backup(t.Context())
		if err == nil || !strings.HasSuffix(err.Error(), "the quota of 5 GB for backups is used up") || !task.IsPermanent(err) || time.Since(start) > 15*time.Second {
			t.Errorf("after %s it says %v", time.Since(start), err)
		}
		if left := w.repository.Objects("locks"); len(left) != 0 {
			t.Errorf("locks are left: %v", left)
		}
	})
	t.Run("of a repository that has lost something it says so, at once", func(t *testing.T) {
		w.sh("head -c 200000 /dev/urandom > public/lost")
		made, err := w.backup(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		place, uid := w.shell()+"/restore", int(w.site.UID)
		for _, dir := range []string{place, place + "/public", place + "/private"} {
			if err := errors.Join(os.Mkdir(dir, 0o710), os.Chown(dir, uid, uid)); err != nil {
				t.Fatal(err)
			}
		}
		fetch := func(want string) {
			t.Helper()
			start := time.Now()
			_, err := w.manager.Fetch(t.Context(), w.site, FetchOrder{Files: made.Files.ID, Dir: place}, nil)
			if err == nil || !strings.Contains(err.Error(), "the repository is damaged: ") || !strings.HasSuffix(err.Error(), want) || !task.IsPermanent(err) || time.Since(start) > 15*time.Second {
				t.Errorf("after %s it says %v, want %q", time.Since(start), err, want)
			}
		}
		whole := map[string][]byte{}
		for _, name := range w.repository.Objects("data") {
			whole["/data/"+name] = w.repository.Get("/data/" + name)
			w.repository.Remove("/data/" + name)
		}
		fetch(" is gone")
		largest := ""
		for name, content := range whole {
			w.repository.Put(name, content)
			if len(content) > len(whole[largest]) {
				largest = name
			}
		}
		w.repository.Put(largest, whole[largest][:len(whole[largest])/2]) // it holds one file alone
		fetch(largest + " is cut off")
		w.repository.Put(largest, whole[largest])
		w.sh("rm public/lost")
		if err := os.RemoveAll(place); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a control plane that is away for a moment is waited for", func(t *testing.T) {
		n := 0
		w.repository.Fault = func(rw http.ResponseWriter, r *http.Request) bool {
			if n++; n%4 == 0 {
				http.Error(rw, "come back later", http.StatusServiceUnavailable)
			}
			return n%4 == 0
		}
		defer func() { w.repository.Fault = nil }()
		if _, err := w.backup(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("canceled, it leaves neither process, socket nor lock", func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		w.repository.Fault = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/data/") {
				stop()
				time.Sleep(time.Second)
				return true
			}
			return false
		}
		defer func() { w.repository.Fault = nil }()
		w.sh("head -c 100000 /dev/urandom > public/newer")
		const listing = `find . -printf '%p %m %s %T@\n' | sort`
		before, site := len(w.repository.Objects("snapshots")), w.sh(listing)
		if _, err := w.backup(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("it says %v", err)
		}
		if left := w.repository.Objects("locks"); len(left) != 0 {
			t.Errorf("locks are left: %v", left)
		}
		if _, err := os.Stat(w.path("run", w.site.Handle.String())); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket's directory: %v", err)
		}
		if after := len(w.repository.Objects("snapshots")); after != before {
			t.Errorf("%d snapshots were made", after-before)
		}
		if after := w.sh(listing); after != site || site == "" {
			t.Errorf("the site was %s and is %s", site, after)
		}
	})
	t.Run("what an agent that was killed has left is no hindrance to the next", func(t *testing.T) {
		// As its file says: one lock that is there, one that never came to be.
		lock := []byte("a lock")
		sum := sha256.Sum256(lock)
		id := hexOf(sum[:])
		w.repository.Put("/locks/"+id, lock)
		l := locks{m: w.manager, path: w.path("keys", w.site.Handle.String(), "locks")}
		if err := errors.Join(l.add("/locks/"+id), l.add("/locks/"+strings.Repeat("ab", 32)), os.MkdirAll(w.path("run", w.site.Handle.String()), 0o700)); err != nil {
			t.Fatal(err)
		}
		w.restart()
		if _, err := w.backup(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := w.repository.Objects("locks"); len(left) != 0 {
			t.Errorf("locks are left: %v", left)
		}
	})
	t.Run("its end destroys the key", func(t *testing.T) {
		if gone, err := w.manager.Gone(w.site.Handle); err != nil || gone {
			t.Fatalf("before: %v, %v", gone, err)
		}
		for range 2 {
			if err := w.manager.Remove(w.site.Handle); err != nil {
				t.Fatal(err)
			}
		}
		if gone, err := w.manager.Gone(w.site.Handle); err != nil || !gone {
			t.Fatalf("after: %v, %v", gone, err)
		}
	})
}

func TestFetch(t *testing.T) {
	w := newWorld(t, true)
	w.init()
	w.sql("CREATE TABLE a (x INT); INSERT INTO a VALUES (1),(2),(3); CREATE VIEW v AS SELECT x FROM a")
	w.sh("echo index > public/index.php; echo secret > private/session; mkdir public/empty")
	made, err := w.backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	server, err := mariadb.New(w.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	place, uid := w.shell()+"/restore", int(w.site.UID)
	order := func() FetchOrder {
		t.Helper()
		if err := os.RemoveAll(place); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{place, place + "/public", place + "/private"} {
			if err := errors.Join(os.Mkdir(dir, 0o710), os.Chown(dir, uid, uid)); err != nil {
				t.Fatal(err)
			}
		}
		in, err := server.OpenImport(t.Context(), w.site.Handle)
		if err != nil {
			t.Fatal(err)
		}
		return FetchOrder{Files: made.Files.ID, Dir: place, Database: made.Database.ID, Import: in}
	}
	t.Run("files and database come together", func(t *testing.T) {
		f, err := w.manager.Fetch(t.Context(), w.site, order(), nil)
		if err != nil || !bytes.Equal(f.SHA256, made.Database.SHA256) || f.Bytes != made.Database.Bytes || !strings.Contains(string(f.Objects), "VIEW `v`") {
			t.Errorf("fetched %+v, %v", f, err)
		}
		if f.Files == nil || f.Files.Count != 5 || f.Files.Bytes != 13 || len(f.Files.SHA256) == 0 {
			t.Errorf("the files that were seen are %+v", f.Files)
		}
		if rows, err := server.Count(t.Context(), w.site.Handle.ScratchDB()); err != nil || len(rows) != 1 || rows["a"] != 3 {
			t.Errorf("the tables are %v, %v", rows, err)
		}
		if got := w.sh("cat restore/public/index.php restore/private/session; ls restore/public"); got != "index\nsecret\nempty\nindex.php" {
			t.Errorf("the files are %q", got)
		}
	})
	t.Run("each alone", func(t *testing.T) {
		o := order()
		o.Files, o.Dir = "", ""
		if f, err := w.manager.Fetch(t.Context(), w.site, o, nil); err != nil || f.Bytes != made.Database.Bytes {
			t.Errorf("fetched %+v, %v", f, err)
		}
		o = order()
		o.Database = ""
		if f, err := w.manager.Fetch(t.Context(), w.site, o, nil); err != nil || f.SHA256 != nil || f.Files != nil {
			t.Errorf("fetched %+v, %v", f, err)
		}
	})
	t.Run("where one fails, the other ends", func(t *testing.T) {
		o := order()
		o.Database = strings.Repeat("ab", 32)
		if _, err := w.manager.Fetch(t.Context(), w.site, o, nil); err == nil || !strings.Contains(err.Error(), "database: ") {
			t.Errorf("it says %v", err)
		}
		o = order()
		o.Files = strings.Repeat("ab", 32)
		if _, err := w.manager.Fetch(t.Context(), w.site, o, nil); err == nil || !strings.Contains(err.Error(), "files: ") {
			t.Errorf("it says %v", err)
		}
	})
	t.Run("nowhere else", func(t *testing.T) {
		o := order()
		o.Dir = w.shell()
		if _, err := w.manager.Fetch(t.Context(), w.site, o, nil); err == nil || !strings.HasSuffix(err.Error(), "the place for the files is none") {
			t.Errorf("it says %v", err)
		}
		o = order()
		o.Import.Schema = w.site.Handle.DBName()
		if _, err := w.manager.Fetch(t.Context(), w.site, o, nil); err == nil || !strings.HasSuffix(err.Error(), "the schema for the database is none") {
			t.Errorf("it says %v", err)
		}
	})
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var out strings.Builder
	for _, c := range b {
		out.WriteByte(digits[c>>4])
		out.WriteByte(digits[c&15])
	}
	return out.String()
}

// TestSecrets looks at everything that others on the host can see while a backup
// is under way.
func TestSecrets(t *testing.T) {
	w := newWorld(t, false)
	w.init()
	w.sh("head -c 100000 /dev/urandom > public/x")
	reached, release := make(chan struct{}), make(chan struct{})
	var once bool
	w.repository.Fault = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/data/") && !once {
			once = true
			close(reached)
			<-release
		}
		return false
	}
	ended := make(chan error, 1)
	go func() {
		_, err := w.backup(t.Context())
		ended <- err
	}()
	<-reached
	socket := w.path("run", w.site.Handle.String(), "repository.sock")
	found := 0
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		for _, file := range []string{"cmdline", "environ"} {
			b, _ := os.ReadFile("/proc/" + e.Name() + "/" + file)
			if bytes.Contains(b, []byte(w.shell())) || bytes.Contains(b, []byte("rest:http://127.0.0.1")) {
				found++
			}
			if bytes.Contains(b, []byte(testKey)) {
				t.Errorf("the key is in /proc/%s/%s: %q", e.Name(), file, b)
			}
		}
	}
	if found == 0 {
		t.Error("restic was not found among the processes")
	}
	if st, err := os.Stat(w.path("keys", w.site.Handle.String(), "key")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", st.Mode(), err)
	}
	ask := func(cred *syscall.Credential, token string) string {
		_ = cred
		c, err := net.Dial("unix", socket)
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		_, err = c.Write([]byte("GET /config HTTP/1.1\r\nHost: x\r\n" + tokenHeader + ": " + token + "\r\n\r\n"))
		if err != nil {
			return err.Error()
		}
		b := make([]byte, 100)
		n, err := c.Read(b)
		if err != nil {
			return err.Error()
		}
		return string(b[:n])
	}
	if got := ask(nil, ""); strings.HasPrefix(got, "HTTP/") { // root's
		t.Errorf("another user is answered %q", got)
	}
	got := w.as("", "/usr/bin/curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--unix-socket", socket, "http://x/config")
	if got != "403" {
		t.Errorf("the site's user without the token is answered %s", got)
	}
	close(release)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAllowed(t *testing.T) {
	id := strings.Repeat("ab", 32)
	for _, c := range []struct {
		request string
		want    bool
	}{
		{"POST /", true}, {"GET /", false}, {"DELETE /", false},
		{"HEAD /config", true}, {"GET /config", true}, {"POST /config", true}, {"DELETE /config", false},
		{"GET /data/", true}, {"POST /data/" + id, true}, {"DELETE /data/" + id, false}, {"PUT /data/" + id, false},
		{"DELETE /locks/" + id, true}, {"DELETE /snapshots/" + id, false}, {"DELETE /keys/" + id, false}, {"DELETE /index/" + id, false},
		{"GET /manifests/", false}, {"GET /manifests/" + id, false}, {"GET /data/../config", false}, {"GET /locks/" + id + "/x", false}, {"GET //config", false},
	} {
		method, path, _ := strings.Cut(c.request, " ")
		if got := allowed(method, path); got != c.want {
			t.Errorf("%s: %v", c.request, got)
		}
	}
}

// TestBrokenDump ends the dump's connection in its midst, and then changes the
// schema under it.
func TestBrokenDump(t *testing.T) {
	w := newWorld(t, true)
	w.init()
	w.sql("CREATE TABLE big (id INT PRIMARY KEY AUTO_INCREMENT, t TEXT); INSERT INTO big (t) SELECT REPEAT(MD5(RAND()), 20) FROM seq_1_to_60000;" +
		"CREATE TABLE late (x INT)")
	root := func(statement string) string {
		out, err := exec.Command("/usr/bin/mariadb", "--no-defaults", "--socket="+w.socket, "--batch", "--skip-column-names", "--execute="+statement).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	// during acts once, when the dump of the big table is under way.
	during := func(act func(id string)) error {
		held, over := make(chan struct{}), make(chan struct{})
		w.repository.Fault = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/index/") {
				<-held // restic reads nothing of the dump yet, which waits
			}
			return false
		}
		defer func() { w.repository.Fault = nil }()
		go func() {
			defer close(over)
			defer close(held)
			for range 400 {
				if id := root("SELECT id FROM information_schema.processlist WHERE info LIKE '%FROM `big`%' AND user LIKE 's-%' AND time > 0 LIMIT 1"); id != "" {
					act(id)
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
			t.Error("no dump was seen")
		}()
		_, err := w.backup(t.Context())
		<-over
		return err
	}
	before := len(w.repository.Objects("snapshots"))
	t.Run("cut, it is in no snapshot", func(t *testing.T) {
		if err := during(func(id string) { root("KILL CONNECTION " + id) }); err == nil || !strings.Contains(err.Error(), "Lost connection") {
			t.Errorf("it says %v", err)
		}
		for _, id := range w.repository.Objects("snapshots")[before:] {
			if text := w.restic("ls", id); strings.Contains(text, DatabaseFile) {
				t.Errorf("a snapshot has %s", text)
			}
		}
	})
	t.Run("a table that is made meanwhile fails it", func(t *testing.T) {
		before := len(w.repository.Objects("snapshots"))
		if err := during(func(string) { root("CREATE TABLE " + w.site.Handle.DBName().String() + ".more (x INT)") }); err == nil || !strings.Contains(err.Error(), "while they were read") {
			t.Errorf("it says %v", err)
		}
		for _, id := range w.repository.Objects("snapshots")[before:] {
			if text := w.restic("ls", id); strings.Contains(text, DatabaseFile) {
				t.Errorf("a snapshot has %s", text)
			}
		}
	})
	t.Run("rows that are added meanwhile are not in it", func(t *testing.T) {
		schema := w.site.Handle.DBName().String()
		held := make(chan struct{})
		w.repository.Fault = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/data/") {
				<-held
			}
			return false
		}
		defer func() { w.repository.Fault = nil }()
		go func() {
			defer close(held)
			for range 400 {
				if root("SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '%FROM `big`%' AND user LIKE 's-%' AND time > 0") != "0" {
					break
				}
				time.Sleep(50 * time.Millisecond)
			}
			root("INSERT INTO " + schema + ".late VALUES (1),(2)")
		}()
		c, err := w.backup(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		rows := map[string]uint64{}
		for _, table := range c.Database.Tables {
			rows[table.Name] = table.Rows
		}
		if rows["big"] != 60000 || rows["late"] != 0 {
			t.Errorf("rows are %v", rows)
		}
	})
}
