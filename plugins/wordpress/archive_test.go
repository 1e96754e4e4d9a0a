package main

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"chom.dev/plugins/sdk"
	"chom.dev/plugins/sdktest"
)

// The tests install a real WordPress: the archive that CHOM_WORDPRESS_ARCHIVE
// names, or one made here from the distribution's packages and kept.
const archiveCache = "/var/cache/chom/wordpress"

var archiveOnce = sync.OnceValues(func() (*sdk.Archive, error) {
	path := os.Getenv("CHOM_WORDPRESS_ARCHIVE")
	if path == "" {
		path = filepath.Join(archiveCache, "test-wordpress.tar.gz")
		if _, err := os.Stat(path); err != nil {
			if err := makeArchive(path); err != nil {
				return nil, err
			}
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return nil, err
	}
	return &sdk.Archive{Path: path, SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
})

func testArchive(t *testing.T) *sdk.Archive {
	t.Helper()
	a, err := archiveOnce()
	if err != nil {
		t.Fatalf("no WordPress to install: %v", err)
	}
	copied := *a
	return &copied
}

// makeArchive packs /usr/share/wordpress of the packages as wordpress.org
// would: links followed, the distribution's own configuration left out.
func makeArchive(path string) error {
	work, err := os.MkdirTemp("", "chom-wordpress-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	download := exec.Command("/usr/bin/apt-get", "download", "wordpress", "wordpress-theme-twentytwentythree",
		"libjs-cropper", "libjs-underscore", "php-getid3")
	download.Dir = work
	if out, err := download.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download: %w\n%s", err, out)
	}
	packages, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil {
		return err
	}
	root := filepath.Join(work, "root")
	for _, p := range packages {
		if out, err := exec.Command("/usr/bin/dpkg", "-x", p, root).CombinedOutput(); err != nil {
			return fmt.Errorf("dpkg -x %s: %w\n%s", p, err, out)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(path), "wordpress-")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	defer temp.Close()
	zipped := gzip.NewWriter(temp)
	packed := tar.NewWriter(zipped)
	if err := pack(packed, filepath.Join(root, "usr/share/wordpress"), "wordpress"); err != nil {
		return err
	}
	if err := packed.Close(); err != nil {
		return err
	}
	if err := zipped.Close(); err != nil {
		return err
	}
	if err := temp.Chmod(0o644); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}

func pack(to *tar.Writer, dir, name string) error {
	if err := to.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "wp-config.php" || e.Name() == ".htaccess" {
			continue
		}
		from, as := filepath.Join(dir, e.Name()), name+"/"+e.Name()
		info, err := os.Stat(from) // follows
		if err != nil {
			return err
		}
		if info.IsDir() {
			if err := pack(to, from, as); err != nil {
				return err
			}
			continue
		}
		if err := to.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: as, Mode: 0o644, Size: info.Size(), ModTime: info.ModTime()}); err != nil {
			return err
		}
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if _, err := to.Write(content); err != nil {
			return err
		}
	}
	return nil
}

var builtOnce = sync.OnceValues(func() (string, error) {
	binary := filepath.Join(scratch, "plugin")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
})

// program is the real plugin, built once for all tests.
func program(t *testing.T) sdktest.Opener {
	t.Helper()
	binary, err := builtOnce()
	if err != nil {
		t.Fatal(err)
	}
	return sdktest.Binary(t, binary)
}
