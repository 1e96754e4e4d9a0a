package lab_test

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/lab/labtest"
)

func TestEnsureBase(t *testing.T) {
	t.Run("finds what it built", func(t *testing.T) {
		a, b := labtest.Base(t, lab.Trixie, lab.Fresh), labtest.Base(t, lab.Trixie, lab.Fresh)
		if a != b {
			t.Errorf("%v and %v", a, b)
		}
	})
	t.Run("refuses a release or flavor it does not know", func(t *testing.T) {
		for _, try := range []struct {
			r lab.Release
			f lab.Flavor
		}{{"sid", lab.Fresh}, {lab.Bookworm, "full"}, {"", ""}} {
			if _, err := lab.EnsureBase(t.Context(), try.r, try.f, nil); err == nil {
				t.Errorf("no error for %v", try)
			}
		}
	})
}

func TestStack(t *testing.T) {
	want := map[lab.Release]struct{ php, nginx, mariadb string }{
		lab.Bookworm: {"8.2.", "1.22.", "10.11."},
		lab.Trixie:   {"8.4.", "1.26.", "11.8."},
	}
	l := labtest.New(t)
	for _, r := range lab.Releases {
		t.Run(string(r)+" serves and has the versions that CHOM supports", func(t *testing.T) {
			h := labtest.Boot(t, l, lab.Config{Name: string(r), Base: labtest.Base(t, r, lab.Stack)})
			labtest.Output(t, h, "systemctl", "is-active", "nginx", "mariadb")
			labtest.Output(t, h, "curl", "--silent", "--fail", "--output", "/dev/null", "http://localhost/")
			if got := labtest.Output(t, h, "php", "-r", "echo PHP_VERSION;"); !strings.HasPrefix(got, want[r].php) {
				t.Errorf("PHP %s", got)
			}
			if got := labtest.Output(t, h, "mariadb", "--batch", "--skip-column-names", "--execute=SELECT VERSION()"); !strings.HasPrefix(got, want[r].mariadb) {
				t.Errorf("MariaDB %s", got)
			}
			nginx, err := h.Exec(t.Context(), "nginx", "-v")
			if err != nil || !strings.Contains(nginx.Stderr, "nginx/"+want[r].nginx) {
				t.Errorf("nginx %+v, %v", nginx, err)
			}
		})
	}
}

func TestWarmApt(t *testing.T) {
	l := labtest.New(t)
	base := labtest.Base(t, lab.Bookworm, lab.Fresh)
	simulated := regexp.MustCompile(`Need to get (0 B/)?[0-9.]+ [kM]?B`)
	for name, warm := range map[string]bool{"cold": false, "warm": true} {
		t.Run(name, func(t *testing.T) {
			h := labtest.Boot(t, l, lab.Config{Name: name, Base: base, WarmApt: warm})
			labtest.Output(t, h, "apt-get", "--quiet", "update")
			r, err := h.Exec(t.Context(), "apt-get", "--assume-no", "--no-install-recommends", "install", "nginx", "mariadb-server", "php-fpm")
			if err != nil {
				t.Fatal(err)
			}
			need := simulated.FindStringSubmatch(r.Stdout)
			if need == nil {
				t.Fatalf("apt says nothing about its download: %+v", r)
			}
			if got := need[1] != ""; got != warm {
				t.Errorf("apt says %q", need[0])
			}
		})
	}
}

func TestEnsureWordPress(t *testing.T) {
	series := map[lab.Release]string{lab.Bookworm: "6.1.", lab.Trixie: "6.8."}
	for _, r := range lab.Releases {
		t.Run(string(r), func(t *testing.T) {
			a, err := lab.EnsureWordPress(t.Context(), r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(a.Version, series[r]) {
				t.Errorf("version %s", a.Version)
			}
			files, sum := unpack(t, a.Path)
			if sum != a.SHA256 {
				t.Errorf("the file's checksum is %s, not %s", sum, a.SHA256)
			}
			for _, name := range []string{
				"wp-load.php", "wp-config-sample.php", "wp-admin/index.php", "wp-includes/version.php",
				"wp-content/themes/twentytwentythree/style.css", "wp-content/plugins/akismet/akismet.php",
				"wp-includes/js/jquery/jquery.js", "wp-includes/PHPMailer/PHPMailer.php", // links in Debian's package
				"wp-includes/certificates/ca-bundle.crt",
			} {
				if files["wordpress/"+name] == 0 {
					t.Errorf("%s is missing or empty", name)
				}
			}
			for _, name := range []string{"wp-config.php", ".htaccess"} {
				if _, ok := files["wordpress/"+name]; ok {
					t.Errorf("%s is Debian's, not WordPress's", name)
				}
			}
		})
	}
}

// unpack reads a tar.gz: its files with their sizes, and its checksum.
func unpack(t *testing.T, path string) (map[string]int64, string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hash := sha256.New()
	zip, err := gzip.NewReader(io.TeeReader(f, hash))
	if err != nil {
		t.Fatal(err)
	}
	files, last := map[string]int64{}, ""
	for archive := tar.NewReader(zip); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir {
			t.Errorf("%s is neither file nor directory", h.Name)
		}
		if !strings.HasPrefix(h.Name, "wordpress/") || h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.ModTime.Year() != 2020 {
			t.Errorf("%s: not as every build would write it: %+v", h.Name, h)
		}
		last = h.Name
		files[h.Name] = h.Size
	}
	if last == "" {
		t.Fatal("the archive is empty")
	}
	if _, err := io.Copy(hash, f); err != nil { // what gzip did not need to read
		t.Fatal(err)
	}
	return files, hex.EncodeToString(hash.Sum(nil))
}
