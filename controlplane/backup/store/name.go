package store

import (
	"fmt"
	"strconv"
	"strings"

	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// Repository is one site's repository.
type Repository struct {
	Organization contract.OrganizationID
	Site         contract.SiteID
}

// String is the repository's path in a store.
func (r Repository) String() string { return r.Organization.String() + "/" + r.Site.String() }

// check refuses the zero value, whose path would be everybody's.
func (r Repository) check() error {
	if r.Organization == (contract.OrganizationID{}) || r.Site == (contract.SiteID{}) {
		return fmt.Errorf("repository %q has no owner or no site", r.String())
	}
	return nil
}

// Kind is what an object is for.
type Kind uint8

// The kinds. Of Config there is one object, which holds restic's parameters; Manifests are the control plane's own, and restic
// knows nothing of them.
const (
	Config Kind = iota + 1
	Keys
	Data
	Index
	Snapshots
	Locks
	Manifests
)

func (k Kind) String() string {
	switch k {
	case Config:
		return "config"
	case Keys:
		return "keys"
	case Data:
		return "data"
	case Index:
		return "index"
	case Snapshots:
		return "snapshots"
	case Locks:
		return "locks"
	case Manifests:
		return "manifests"
	default:
		return "unknown"
	}
}

// hashed says whether objects of the kind are named by the SHA-256 of their content.
func (k Kind) hashed() bool { return k >= Keys && k <= Locks }

// largest is how large an object of the kind may be.
func (k Kind) largest() int64 {
	switch k {
	case Data:
		return MaxObject
	case Index:
		return 64 << 20 // restic begins another one at 50,000 blobs or after 10 minutes
	case Snapshots:
		return 16 << 20 // a list of paths
	default:
		return 1 << 20 // a few fields
	}
}

// MaxObject is how large an object may be: restic packs 16 MiB by default, and 128 MiB at most.
const MaxObject = 256 << 20

// hexID is how long a hash is in hexadecimal digits.
const hexID = 64

// sequenceDigits is how long a manifest's name is.
const sequenceDigits = 10

// Name names one object of a repository. Only what ParseName, ConfigName and ManifestName give names anything.
type Name struct {
	kind Kind
	text string
}

// ConfigName names the object that there is once.
func ConfigName() Name { return Name{Config, ""} }

// ManifestName names the manifest of a sequence from 1 to 9,999,999,999.
func ManifestName(sequence uint64) (Name, error) {
	text := fmt.Sprintf("%0*d", sequenceDigits, sequence)
	if sequence == 0 || len(text) != sequenceDigits {
		return Name{}, fault.Invalid("sequence", "must be from 1 to 9999999999")
	}
	return Name{Manifests, text}, nil
}

// ParseName takes the name of an object of restic's: 64 lower-case hexadecimal digits.
func ParseName(kind Kind, text string) (Name, error) {
	if !kind.hashed() {
		return Name{}, fault.Invalid("kind", "has no objects with such names")
	}
	if len(text) != hexID || strings.Trim(text, "0123456789abcdef") != "" {
		return Name{}, fault.Invalid("name", "must be 64 lower-case hexadecimal digits")
	}
	return Name{kind, text}, nil
}

// Kind is what the object is for.
func (n Name) Kind() Kind { return n.kind }

// Text is the name within its kind, empty for Config.
func (n Name) Text() string { return n.text }

// Sequence is a manifest's, 0 for others.
func (n Name) Sequence() uint64 {
	if n.kind != Manifests {
		return 0
	}
	sequence, _ := strconv.ParseUint(n.text, 10, 64) // ten digits, always
	return sequence
}

func (n Name) String() string {
	if n.kind == Config {
		return "config"
	}
	return n.kind.String() + "/" + n.text
}

// path is where the object lies in its repository: restic's own default layout, so that its program reads a store as it is.
func (n Name) path() string {
	switch n.kind {
	case Config:
		return "config"
	case Data:
		return "data/" + n.text[:2] + "/" + n.text
	default:
		return n.kind.String() + "/" + n.text
	}
}

// check refuses the zero value.
func (n Name) check() error {
	if n.kind == 0 || n.kind != Config && n.text == "" {
		return fmt.Errorf("%q names no object", n.String())
	}
	return nil
}

// nameAt is what path of a name came from, false for what is no object.
func nameAt(kind Kind, path string) (Name, bool) {
	_, text, within := cutLast(path)
	if !within {
		return ConfigName(), path == "config" && kind == Config
	}
	var n Name
	var err error
	if kind == Manifests {
		sequence, bad := strconv.ParseUint(text, 10, 64)
		if bad != nil {
			return Name{}, false
		}
		n, err = ManifestName(sequence)
	} else {
		n, err = ParseName(kind, text)
	}
	return n, err == nil && n.path() == path
}

func cutLast(path string) (before, after string, found bool) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path, false
	}
	return path[:i], path[i+1:], true
}
