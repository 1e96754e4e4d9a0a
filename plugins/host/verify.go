package host

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"chom.dev/plugins/sdk"
	"chom.dev/proto/contract"
)

const (
	// BinaryPrefix and a site type make a plugin's file name.
	BinaryPrefix = "chom-plugin-"
	// DescriptionSuffix behind that makes the file name of its description.
	DescriptionSuffix = ".json"
	// SumsFile lists the SHA-256 of every file beside it, in the format of
	// sha256sum. It is made when the package is built.
	SumsFile = "SHA256SUMS"

	maxSums        = 64 << 10 // some 600 lines
	maxDescription = 256 << 10
	maxBinary      = 256 << 20
)

// Describe reads the shipped description of a site type. It needs no process
// and no tenant has a hand in it.
func (h *Host) Describe(t contract.SiteType) (sdk.Description, error) {
	content, err := h.read(t, BinaryPrefix+t.String()+DescriptionSuffix, maxDescription)
	if err != nil {
		return sdk.Description{}, fmt.Errorf("describe plugin: %w", err)
	}
	var d sdk.Description
	if err := json.Unmarshal(content, &d); err != nil {
		return sdk.Description{}, fmt.Errorf("describe plugin %s: %w", t, err)
	}
	if err := d.Validate(); err != nil {
		return sdk.Description{}, fmt.Errorf("describe plugin %s: %w", t, err)
	}
	if d.Type != t {
		return sdk.Description{}, fmt.Errorf("describe plugin %s: its description is of type %s", t, d.Type)
	}
	return d, nil
}

// Types lists the site types that this host has plugins for, in order. Being
// listed is not being verified: that happens at each use.
func (h *Host) Types() ([]contract.SiteType, error) {
	sums, err := h.sums()
	if err != nil {
		return nil, fmt.Errorf("list plugins: %w", err)
	}
	var types []contract.SiteType
	for name := range sums {
		rest, ok := strings.CutPrefix(name, BinaryPrefix)
		if !ok || strings.HasSuffix(name, DescriptionSuffix) {
			continue
		}
		if t, err := contract.ParseSiteType(rest); err == nil {
			types = append(types, t)
		}
	}
	slices.SortFunc(types, func(a, b contract.SiteType) int { return strings.Compare(a.String(), b.String()) })
	return types, nil
}

// verify checks the program of a site type and returns its path. Between the
// check and the start only root could change the file: it and every folder
// above it belong to root and are closed to others. So the sum of one that was
// not touched since it was checked is not taken again.
func (h *Host) verify(t contract.SiteType) (string, error) {
	name := BinaryPrefix + t.String()
	f, sum, err := h.openListed(t, name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	path := filepath.Join(h.dir, name)
	now, err := markOf(f, sum)
	if err != nil {
		return "", fmt.Errorf("verify %s: %w", name, err)
	}
	h.mu.Lock()
	known := h.verified[name] == now
	h.mu.Unlock()
	if known {
		return path, nil
	}
	if err := match(f, sum, maxBinary, nil); err != nil {
		return "", fmt.Errorf("verify %s: %w", name, err)
	}
	if time.Since(time.Unix(now.changed.Unix())) > settled {
		h.mu.Lock()
		h.verified[name] = now
		h.mu.Unlock()
	}
	return path, nil
}

// mark tells a file from any other, and from itself after a change: nobody can
// set the time of the last change but by setting the clock.
type mark struct {
	device, inode uint64
	size          int64
	changed       syscall.Timespec
	sum           string // that was listed
}

// settled is how long ago a file was changed at least when its mark counts: a
// second change within the same tick of the kernel's clock would not show.
const settled = time.Second

func markOf(f *os.File, sum string) (mark, error) {
	info, err := f.Stat()
	if err != nil {
		return mark{}, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return mark{}, errors.New("its inode is not known")
	}
	return mark{stat.Dev, stat.Ino, stat.Size, stat.Ctim, sum}, nil
}

func (h *Host) read(t contract.SiteType, name string, limit int64) ([]byte, error) {
	f, sum, err := h.openListed(t, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var content bytes.Buffer
	if err := match(f, sum, limit, &content); err != nil {
		return nil, fmt.Errorf("verify %s: %w", name, err)
	}
	return content.Bytes(), nil
}

// openListed looks the name up in the list and opens the file, if both are
// trustworthy.
func (h *Host) openListed(t contract.SiteType, name string) (*os.File, string, error) {
	if t.IsZero() {
		return nil, "", unknownType(t)
	}
	sums, err := h.sums()
	if err != nil {
		return nil, "", err
	}
	sum, listed := sums[name]
	if !listed {
		return nil, "", unknownType(t)
	}
	f, err := h.openTrusted(name)
	return f, sum, err
}

func (h *Host) sums() (map[string]string, error) {
	f, err := h.openTrusted(SumsFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sums := map[string]string{}
	lines := bufio.NewScanner(io.LimitReader(f, maxSums))
	for lines.Scan() {
		sum, name, ok := strings.Cut(lines.Text(), "  ")
		if raw, err := hex.DecodeString(sum); !ok || err != nil || len(raw) != sha256.Size || !fs.ValidPath(name) || strings.Contains(name, "/") {
			return nil, fmt.Errorf("read %s: line %d is not a checksum and a file name", SumsFile, len(sums)+1)
		}
		if _, twice := sums[name]; twice {
			return nil, fmt.Errorf("read %s: %s is listed twice", SumsFile, name)
		}
		sums[name] = sum
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", SumsFile, err)
	}
	return sums, nil
}

// openTrusted opens a file of the plugins' folder after the folder, everything
// above it, and the opened file itself proved to be root's alone.
func (h *Host) openTrusted(name string) (*os.File, error) {
	for dir := h.dir; ; dir = filepath.Dir(dir) {
		info, err := os.Lstat(dir)
		if err != nil {
			return nil, fmt.Errorf("plugins' folder: %w", err)
		}
		if !info.IsDir() {
			return nil, fmt.Errorf("plugins' folder: %s is not a folder", dir)
		}
		if err := rootsAlone(info); err != nil {
			return nil, fmt.Errorf("plugins' folder: %s %w", dir, err)
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	f, err := os.OpenFile(filepath.Join(h.dir, name), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open plugin file: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open plugin file: %w", err)
	}
	if !info.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("open plugin file: %s is not a regular file", name)
	}
	if err := rootsAlone(info); err != nil {
		f.Close()
		return nil, fmt.Errorf("open plugin file: %s %w", name, err)
	}
	return f, nil
}

var (
	errOwner = errors.New("does not belong to root")
	errMode  = errors.New("can be written by others than root")
)

func rootsAlone(info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Uid != 0 {
		return errOwner
	}
	// A group other than root's may not write either. Sticky folders such as
	// /tmp are let through as ancestors: nobody can move root's entries there.
	sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0
	if info.Mode().Perm()&0o022 != 0 && !sticky {
		return errMode
	}
	return nil
}

// match reads the file once and compares its sum, optionally keeping it.
func match(f io.Reader, want string, limit int64, keep io.Writer) error {
	sum := sha256.New()
	to := io.Writer(sum)
	if keep != nil {
		to = io.MultiWriter(sum, keep)
	}
	n, err := io.Copy(to, io.LimitReader(f, limit+1))
	if err != nil {
		return err
	}
	if n > limit {
		return fmt.Errorf("is larger than %d bytes", limit)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want {
		return fmt.Errorf("its SHA-256 is %s, the package says %s", got, want)
	}
	return nil
}
