package lab

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Archive is a WordPress release as wordpress.org lays one out: a tar.gz with
// everything in one folder "wordpress". It is made from Debian's own package,
// so that a lab needs nothing but the apt mirror.
type Archive struct {
	Path    string `json:"path"`
	Version string `json:"version"` // of WordPress, as 6.1.9
	Package string `json:"package"` // Debian's version of it, as 6.1.9+dfsg1-0+deb12u1
	SHA256  string `json:"sha256"`  // of the file, in hex
}

// wordpressPackages: Debian ships no theme with WordPress itself.
var wordpressPackages = []string{"wordpress", "wordpress-theme-twentytwentythree"}

// wordpressRecipe is part of the cache key: raise it when the steps below change.
const wordpressRecipe = "2"

// EnsureWordPress returns the archive of the WordPress that the release ships,
// building it where the cache has none. The same packages give the same bytes.
func EnsureWordPress(ctx context.Context, r Release, log *slog.Logger) (Archive, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	base, err := EnsureBase(ctx, r, Fresh, log)
	if err != nil {
		return Archive{}, err
	}
	record := filepath.Join(CacheDir(), "wordpress", fmt.Sprintf("%s-%s.json", r, wordpressRecipe))
	var a Archive
	err = withLock(ctx, record+".lock", func() error {
		a, err = readRecord[Archive](record)
		if err == nil && exists(a.Path) {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if a, err = buildWordPress(ctx, base, log); err != nil {
			return err
		}
		return writeRecord(record, a)
	})
	if err != nil {
		return Archive{}, fmt.Errorf("build the WordPress archive of %s: %w", r, err)
	}
	return a, nil
}

func buildWordPress(ctx context.Context, base Base, log *slog.Logger) (a Archive, err error) {
	dir := filepath.Join(CacheDir(), "wordpress")
	log.Info("building the WordPress archive", "release", base.Release)
	tmp, err := os.MkdirTemp(dir, ".build-")
	if err != nil {
		return Archive{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }() // the archive itself is moved out of it
	buildLog := filepath.Join(dir, string(base.Release)+".log")
	tree, err := unpackWordPress(ctx, tmp, base, buildLog)
	if err != nil {
		return Archive{}, err
	}
	version, err := onMachine(ctx, nil, "/usr/bin/dpkg-deb", "--show", "--showformat=${Version}", "--", tree.wordpressDeb)
	if err != nil {
		return Archive{}, err
	}
	a = Archive{Package: string(version)}
	a.Version = upstreamVersion(a.Package)
	file := filepath.Join(tmp, "wordpress.tar.gz")
	if a.SHA256, err = packWordPress(tree.root, file); err != nil {
		return Archive{}, err
	}
	a.Path = filepath.Join(dir, fmt.Sprintf("wordpress-%s.tar.gz", a.Version))
	return a, os.Rename(file, a.Path)
}

type wordpressTree struct{ root, wordpressDeb string }

// unpackWordPress downloads WordPress and every package that it may link into,
// and unpacks all of them into one tree. None of their scripts run.
func unpackWordPress(ctx context.Context, tmp string, base Base, log string) (wordpressTree, error) {
	scratch := filepath.Join(tmp, "scratch")
	if err := logged(ctx, log, "/usr/bin/cp", "--archive", "--reflink=auto", "--", base.Root(), scratch); err != nil {
		return wordpressTree{}, err
	}
	m, err := machineMirror("/etc/apt")
	if err != nil {
		return wordpressTree{}, err
	}
	// Download only, although the function's name says install: apt leaves the
	// packages behind and that is all that is used.
	download := append([]string{"--download-only"}, wordpressPackages...)
	if err := installPackages(ctx, log, scratch, base.Release, m, download); err != nil {
		return wordpressTree{}, err
	}
	debs, err := filepath.Glob(filepath.Join(scratch, "var/cache/apt/archives/*.deb"))
	if err != nil {
		return wordpressTree{}, err
	}
	t := wordpressTree{root: filepath.Join(tmp, "tree")}
	if err := os.Mkdir(t.root, 0o755); err != nil {
		return wordpressTree{}, err
	}
	for _, deb := range debs {
		if strings.HasPrefix(filepath.Base(deb), "wordpress_") {
			t.wordpressDeb = deb
		}
		if _, err := onMachine(ctx, nil, "/usr/bin/dpkg-deb", "--extract", deb, t.root); err != nil {
			return wordpressTree{}, err
		}
	}
	// One link leads to a file that no package holds: ca-certificates makes it
	// when it is installed, as it was in the base.
	const bundle = "etc/ssl/certs/ca-certificates.crt"
	certificates, err := os.ReadFile(filepath.Join(scratch, bundle))
	if err != nil {
		return wordpressTree{}, err
	}
	if err := os.MkdirAll(filepath.Join(t.root, filepath.Dir(bundle)), 0o755); err != nil {
		return wordpressTree{}, err
	}
	if err := os.WriteFile(filepath.Join(t.root, bundle), certificates, 0o644); err != nil {
		return wordpressTree{}, err
	}
	if t.wordpressDeb == "" {
		return wordpressTree{}, errors.New("apt did not download the package wordpress")
	}
	return t, nil
}

// upstreamVersion cuts what Debian adds to a version: "1:6.1.9+dfsg1-0+deb12u1" is 6.1.9.
func upstreamVersion(pkg string) string {
	if _, rest, ok := strings.Cut(pkg, ":"); ok {
		pkg = rest
	}
	if i := strings.IndexAny(pkg, "+-~"); i >= 0 {
		pkg = pkg[:i]
	}
	return pkg
}

// packedAt is the time of every file in the archive: any would do that never changes.
var packedAt = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// packWordPress writes the archive with each link replaced by what it leads to
// within the tree, and returns the file's checksum.
func packWordPress(tree, file string) (sum string, err error) {
	out, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o644)
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	zip := gzip.NewWriter(io.MultiWriter(out, hash))
	p := packer{tar: tar.NewWriter(zip)}
	if p.root, err = openRooted(tree); err != nil {
		return "", errors.Join(err, out.Close())
	}
	defer p.root.close()
	err = p.add("/usr/share/wordpress", "wordpress", 0)
	if err := cmp.Or(err, p.tar.Close(), zip.Close(), out.Sync(), out.Close()); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

type packer struct {
	root rooted
	tar  *tar.Writer
}

// debianOwn are files that belong to Debian's way of configuring, not to WordPress.
var debianOwn = []string{"wp-config.php", ".htaccess"}

// maxDepth is far beyond WordPress's own: deeper means links in a circle.
const maxDepth = 32

func (p packer) add(from, to string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: links lead in a circle", from)
	}
	f, err := p.root.open(from, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	header := &tar.Header{Name: to, ModTime: packedAt, Format: tar.FormatPAX}
	switch {
	case info.IsDir():
		header.Typeflag, header.Mode, header.Name = tar.TypeDir, 0o755, to+"/"
		if err := p.tar.WriteHeader(header); err != nil {
			return err
		}
		names, err := f.Readdirnames(-1)
		if err != nil {
			return err
		}
		slices.Sort(names)
		for _, name := range names {
			if to == "wordpress" && slices.Contains(debianOwn, name) {
				continue
			}
			if err := p.add(path.Join(from, name), path.Join(to, name), depth+1); err != nil {
				return err
			}
		}
		return nil
	case info.Mode().IsRegular():
		header.Typeflag, header.Mode, header.Size = tar.TypeReg, 0o644, info.Size()
		if err := p.tar.WriteHeader(header); err != nil {
			return err
		}
		_, err := io.Copy(p.tar, f)
		return err
	}
	return fmt.Errorf("%s is neither file nor directory", from)
}
