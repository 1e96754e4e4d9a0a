// Package archive reads and writes archives of sites. It knows neither repositories nor who asks.
//
// A portable archive is a tar archive, compressed by zstd, that another CHOM imports:
//
//	chom-site.json   what the site was: Site
//	files/           the site's files: files/public and files/private, with modes, times and symbolic links
//	database.sql     the dump of its database, as backups have it; a site without one has none
//	chom-end.json    how many entries came before, and a hash over all of them: End. What lacks it was cut off.
//
// It holds no owners, no extended attributes and no keys. What it does hold is all that the site's own files do, its passwords among it.
//
// Whatever is read was written by a stranger. Extract reads tar archives, plain or compressed by gzip or zstd, and writes what they
// hold below one directory and nowhere else:
//
//	bytes -> gzip, zstd -> tar -> rules of names, kinds, links and limits -> os.Root
//	          at most Limits.Ratio times what came, at most Limits.Bytes
//
// What breaks a rule is Refused, with the entry and the rule; nothing is repaired but what a site loses nothing by: owners, extended
// attributes, and the bits for setuid, setgid and sticky are dropped.
package archive

import (
	"errors"
	"fmt"
	"time"

	"chom.dev/proto/contract"
)

// Names of entries in a portable archive.
const (
	siteFile = "chom-site.json"
	endFile  = "chom-end.json"
	// Files is the directory of a site's files.
	Files = "files"
	// Database is the dump.
	Database = "database.sql"
)

// Schema is the layout of Site and End.
const Schema = 1

// Site says what a portable archive is of. But for counts and checksums it is information: nothing is decided by it.
type Site struct {
	Schema     int                  `json:"schema"`
	SiteID     string               `json:"site_id"`
	BackupID   string               `json:"backup_id"`
	Moment     time.Time            `json:"moment"` // that it shows
	Type       string               `json:"type"`
	Domains    []string             `json:"domains"` // the primary one first
	Settings   map[string]string    `json:"settings"`
	FileCount  uint64               `json:"file_count"` // files, directories and links
	FileBytes  uint64               `json:"file_bytes"`
	DumpBytes  uint64               `json:"dump_bytes"`
	DumpSHA256 string               `json:"dump_sha256"` // hexadecimal; empty without a database
	Tables     []contract.DumpTable `json:"tables"`
}

// End closes a portable archive.
type End struct {
	Schema  int    `json:"schema"`
	Entries int    `json:"entries"` // before it
	Bytes   int64  `json:"bytes"`   // in files
	SHA256  string `json:"sha256"`  // see digest; hexadecimal
}

// Limits bound what an archive may come to. All must be positive.
type Limits struct {
	Entries int   // files, directories and links
	File    int64 // bytes of one file
	Bytes   int64 // bytes of all files, and for each entry blockBytes besides
	Depth   int   // directories in one another
	Ratio   int64 // bytes that come of one compressed one
}

// blockBytes is what an entry takes on a disk besides its content.
const blockBytes = 4096

// DefaultLimits are for sites. Bytes is the largest site that a control plane takes in; give less where a disk has less.
func DefaultLimits() Limits {
	return Limits{
		Entries: 2_000_000, // ten times the largest site we know
		File:    64 << 30,  // a dump, and videos
		Bytes:   256 << 30,
		Depth:   100, // node_modules have 20
		Ratio:   200, // text comes to 10, dumps and logs to 50; bombs begin at 1000
	}
}

// Refused says which rule an entry of an archive breaks. Trying again changes nothing.
type Refused struct {
	Entry string // as the archive has it; empty where it is the archive itself
	Rule  string
}

func (r *Refused) Error() string {
	if r.Entry == "" {
		return "the archive is refused: " + r.Rule
	}
	return fmt.Sprintf("the archive is refused: the entry %.300q %s", r.Entry, r.Rule)
}

// IsRefused says whether an error is about the archive, and not about what happened while it was read.
func IsRefused(err error) bool {
	var r *Refused
	return errors.As(err, &r)
}

func refuse(entry, format string, args ...any) error {
	return &Refused{Entry: entry, Rule: fmt.Sprintf(format, args...)}
}
