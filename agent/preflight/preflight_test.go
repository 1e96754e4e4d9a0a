package preflight

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func procWith(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var good = map[string]string{
	"sys/kernel/osrelease": "6.1.0-40-amd64", "sys/fs/protected_symlinks": "1", "sys/fs/protected_hardlinks": "1",
	"sys/fs/protected_regular": "2", "sys/fs/protected_fifos": "2",
}

func TestKernel(t *testing.T) {
	with := func(name, value string) map[string]string {
		m := map[string]string{}
		for k, v := range good {
			m[k] = v
		}
		if m[name] = value; value == "" {
			delete(m, name)
		}
		return m
	}
	for _, c := range []struct {
		claim string
		files map[string]string
		want  string
	}{
		{"a Debian as it comes is good", good, ""},
		{"links must be protected", with("sys/fs/protected_symlinks", "0"), "fs.protected_symlinks is 0, must be 1"},
		{"hard links too", with("sys/fs/protected_hardlinks", "0"), "fs.protected_hardlinks is 0, must be 1"},
		{"files in group-writable places too", with("sys/fs/protected_regular", "1"), "fs.protected_regular is 1, must be 2"},
		{"what can't be read is not trusted", with("sys/fs/protected_fifos", ""), "fs.protected_fifos is unreadable, must be 2"},
		{"an old kernel is refused", with("sys/kernel/osrelease", "5.5.19"), "kernel release is 5.5.19, must be at least 5.6"},
		{"an older one as well", with("sys/kernel/osrelease", "4.19.0"), "kernel release is 4.19.0, must be at least 5.6"},
		{"the first good kernel is good", with("sys/kernel/osrelease", "5.6"), ""},
		{"two digits are more than one", with("sys/kernel/osrelease", "5.10.0-x"), ""},
		{"nonsense is refused", with("sys/kernel/osrelease", "x"), "kernel release is x, must be at least 5.6"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			if got := strings.Join(words(kernel(procWith(t, c.files))), "; "); got != c.want {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}

func TestMount(t *testing.T) {
	const line = "36 35 98:0 / /srv/chom rw,%s,relatime shared:1 - ext4 /dev/vda rw"
	for _, c := range []struct{ claim, info, want string }{
		{"without setuid and devices it is good", strings.Replace(line, "%s", "nosuid,nodev", 1), ""},
		{"both must be there", strings.Replace(line, "%s", "nosuid", 1), "mount /srv/chom is rw,nosuid,relatime, must be nodev"},
		{"no mount is a finding", "36 35 98:0 / /srv rw,nosuid,nodev shared:1 - ext4 /dev/vda rw", "mount /srv/chom is none, must be a mount of its own"},
		{"the mount on top counts", strings.Replace(line, "%s", "nosuid,nodev", 1) + "\n" + strings.Replace(line, "%s", "noatime", 1), "mount /srv/chom is rw,noatime,relatime, must be nosuid; mount /srv/chom is rw,noatime,relatime, must be nodev"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			if got := strings.Join(words(mount(procWith(t, map[string]string{"self/mountinfo": c.info}), "/srv/chom")), "; "); got != c.want {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}
