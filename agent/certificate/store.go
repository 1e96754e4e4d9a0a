package certificate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"chom.dev/agent/atomicfile"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// files is the directory of the package's comment.
type files struct{ dir string }

func (f files) site(h contract.Handle) string { return filepath.Join(f.dir, h.String()) }

func (f files) pem(k key) string  { return f.of(k, ".pem") }
func (f files) json(k key) string { return f.of(k, ".json") }

// former is the certificate that nginx served before one that it has not judged.
func (f files) former(k key) string { return f.of(k, ".former") }

func (f files) of(k key, ext string) string {
	name := k.name.String()
	if k.name.IsWildcard() {
		name = "_." + k.name.Base().String() // no name of a host begins with an underscore
	}
	return filepath.Join(f.site(k.handle), name+ext)
}

// write replaces a file that only root reads.
func (f files) write(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	_, err := atomicfile.Write(path, text, 0o600, os.Getegid())
	return err
}

// room fails where a certificate could not be stored: a CA counts what it
// issues, and must not be asked for what would be lost.
func (f files) room(k key) error {
	path := f.of(k, ".room")
	err := f.write(path, make([]byte, roomBytes))
	_, gone := atomicfile.Remove(path)
	return errors.Join(err, gone)
}

const roomBytes = 16 << 10 // a key, a chain and their record, with some to spare

// keepFormer keeps the certificate that is there, if any, for putBack. The one
// that is kept already stays where judged is false: nginx served it last.
func (f files) keepFormer(k key, judged bool) error {
	if judged {
		if _, err := atomicfile.Remove(f.former(k)); err != nil {
			return err
		}
	}
	err := os.Link(f.pem(k), f.former(k)) // another name, so that what comes in its place does not touch it
	if errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// putBack puts what keepFormer kept in the place of what came after it.
func (f files) putBack(k key) error { return atomicfile.Rename(f.former(k), f.pem(k)) }

// remove destroys one certificate and what is known of it.
func (f files) remove(k key) error {
	for _, path := range []string{f.pem(k), f.former(k), f.json(k), f.of(k, ".room")} {
		for _, path := range []string{path, aside(path)} { // what a crash left may be a key
			if _, err := atomicfile.Remove(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// aside is where atomicfile writes before it renames.
func aside(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
}

// names lists the names that each site has files of, also what a crash left.
func (f files) names() (map[string][]contract.Domain, error) {
	sites, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, err
	}
	out := map[string][]contract.Domain{}
	for _, site := range sites {
		handle, err := contract.ParseHandle(site.Name())
		if err != nil {
			continue // an account, or a file of all sites
		}
		entries, err := os.ReadDir(f.site(handle))
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			file := strings.TrimSuffix(strings.TrimPrefix(e.Name(), "."), ".new") // as aside names them
			text := strings.TrimSuffix(file, filepath.Ext(file))
			if base, ok := strings.CutPrefix(text, "_."); ok {
				text = "*." + base
			}
			name, err := contract.ParsePattern(text)
			if err == nil && !slices.Contains(out[site.Name()], name) {
				out[site.Name()] = append(out[site.Name()], name)
			}
		}
	}
	return out, nil
}

// holds reports whether there may be a key of a name.
func (f files) holds(k key) bool {
	return slices.ContainsFunc([]string{f.pem(k), f.former(k)}, func(path string) bool {
		_, err := os.Lstat(path)
		return !errors.Is(err, fs.ErrNotExist)
	})
}

// removeAll destroys all certificates of a site.
func (f files) removeAll(h contract.Handle) error {
	if err := os.RemoveAll(f.site(h)); err != nil {
		return err
	}
	dir, err := os.Open(f.dir)
	if err != nil {
		return err
	}
	defer dir.Close() // read-only
	return dir.Sync()
}

// record is how getting the next certificate for a name goes.
type record struct {
	Failures   int                  `json:"failures,omitempty"`   // since the last success
	Tries      int                  `json:"tries,omitempty"`      // of these, those since the site last changed: they decide the back-off
	Generation uint64               `json:"generation,omitempty"` // of the site's desired state at the last try
	LastTry    time.Time            `json:"last_try,omitzero"`
	NextTry    time.Time            `json:"next_try,omitzero"`
	Problem    string               `json:"problem,omitempty"` // of the last try
	Away       bool                 `json:"away,omitempty"`    // the control plane, or who it asks, was the obstacle
	Refused    bool                 `json:"refused,omitempty"` // the CA never issues for this name
	Limited    map[string]time.Time `json:"limited,omitempty"` // CAs that want to be left alone with this name, by name, until when
	Renewal    *renewal             `json:"renewal,omitempty"`
	Unserved   bool                 `json:"unserved,omitempty"`  // nginx may not have loaded it
	Withdrawn  bool                 `json:"withdrawn,omitempty"` // to be destroyed once nginx has let go of it
}

// renewal is when a certificate's CA wants it to be renewed (RFC 9773).
type renewal struct {
	Serial string    `json:"serial"` // of the certificate that it is about
	Start  time.Time `json:"start,omitzero"`
	End    time.Time `json:"end,omitzero"`
	At     time.Time `json:"at,omitzero"` // the moment within that was chosen; zero where the CA says nothing
	Ask    time.Time `json:"ask"`         // again, from then on
}

// records are those of all names, on disk and, since each look reads all, at
// hand. Nobody else writes them.
type records struct {
	files files
	mu    sync.Mutex
	known map[key]record // never changed in place
}

// of gives what is known of a name. What can't be read is known no longer: it
// decides only when to try.
func (rs *records) of(k key) record {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if r, ok := rs.known[k]; ok {
		return r
	}
	var r record
	text, err := os.ReadFile(rs.files.json(k))
	if err != nil || json.Unmarshal(text, &r) != nil {
		r = record{}
	}
	rs.known[k] = r
	return r
}

func (rs *records) keep(k key, r record) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.known[k] = r // also when it can't be written: a full disk is what people have to be told of
	return rs.files.write(rs.files.json(k), append(text, '\n'))
}

// where gives the names at hand whose records are so.
func (rs *records) where(is func(record) bool) (all []key) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for k, r := range rs.known {
		if is(r) {
			all = append(all, k)
		}
	}
	return all
}

// forget drops what is at hand of names whose files go.
func (rs *records) forget(goes func(key) bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	maps.DeleteFunc(rs.known, func(k key, _ record) bool { return goes(k) })
}

func (f files) issuance() (*linkv1.Issuance, error) {
	said := new(linkv1.Issuance)
	text, err := os.ReadFile(filepath.Join(f.dir, "issuance"))
	if errors.Is(err, fs.ErrNotExist) {
		return said, nil
	}
	if err != nil {
		return nil, err
	}
	return said, proto.Unmarshal(text, said)
}

func (f files) keepIssuance(said *linkv1.Issuance) error {
	text, err := proto.Marshal(said)
	if err != nil {
		return err
	}
	return f.write(filepath.Join(f.dir, "issuance"), text)
}

func (f files) newest() (time.Time, error) {
	text, err := os.ReadFile(filepath.Join(f.dir, "newest"))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse(time.RFC3339, strings.TrimSpace(string(text)))
	if err != nil {
		return time.Time{}, fmt.Errorf("%s holds no time; remove it: %w", filepath.Join(f.dir, "newest"), err)
	}
	return t, nil
}

func (f files) keepNewest(t time.Time) error {
	return f.write(filepath.Join(f.dir, "newest"), []byte(t.UTC().Format(time.RFC3339)+"\n"))
}

// cached is what was read of a certificate's file, and of which.
type cached struct {
	stat fs.FileInfo
	held *held // nil where it can't be used
}

// held is a certificate on disk that can be served.
type held struct {
	origin
	serial    string // as in renewal
	sha256    [32]byte
	notBefore time.Time
	notAfter  time.Time
	ocsp      bool
}

// held gives what can be served for a name, nil for nothing.
func (m *Manager) held(k key) *held {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.heldLocked(k)
}

// heldLocked is held, with mu held. A file is read once, unless it changed. One
// that can't be read now, as when there are too many open, is taken for what it
// was: only what was read can be found to be of no use.
func (m *Manager) heldLocked(k key) *held {
	former := m.cache[k]
	st, err := os.Stat(m.files.pem(k))
	if errors.Is(err, fs.ErrNotExist) {
		delete(m.cache, k)
		return nil
	}
	if err == nil && former != nil && os.SameFile(former.stat, st) && former.stat.ModTime().Equal(st.ModTime()) && former.stat.Size() == st.Size() {
		return former.held
	}
	var b *bundle
	if err == nil {
		b, err = m.read(k)
	}
	if err != nil {
		m.cfg.Log.Warn("a certificate on disk cannot be used", "name", k.name, "site", k.handle, "err", err)
	}
	if path := (*fs.PathError)(nil); errors.As(err, &path) { // of Stat and ReadFile alone
		if former == nil {
			return nil
		}
		return former.held
	}
	c := &cached{stat: st}
	m.cache[k] = c
	if err != nil {
		return nil
	}
	c.held = &held{
		origin: b.origin, serial: b.leaf().SerialNumber.Text(16), sha256: fingerprint(b.leaf()),
		notBefore: b.leaf().NotBefore, notAfter: b.leaf().NotAfter, ocsp: len(b.leaf().OCSPServer) > 0,
	}
	return c.held
}

// read gives the certificate on disk.
func (m *Manager) read(k key) (*bundle, error) { return readFile(m.files.pem(k), k.name) }

func readFile(path string, name contract.Domain) (*bundle, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	b, err := parse(text)
	if err != nil {
		return nil, err
	}
	if b.source == "" {
		return nil, errors.New("it does not say where it comes from")
	}
	return b, b.covers(name)
}

func (m *Manager) record(k key) record { return m.records.of(k) }
