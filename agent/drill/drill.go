// Package drill is what is done with a backup beside its site, to see that it can be
// restored. It is put together and looked at in a world that ends with it:
//
//	Fetch   files and dump are written, listed and counted    with the repository's key, before any
//	                                                          program of the site was run
//	Look    the site's pages are asked for                    with no way to the repository
//
// Both run as the site's user, offline, with the drill's own tree in the place of
// the site's and a MariaDB of its own at the place of the host's (run.Beside). What
// is restored there can reach neither the live site nor its database nor anybody
// else, and mail or orders that its programs would send go nowhere.
//
// It says what was found, and does not judge. Not here: the steps of an order, and
// removing what is left (package site).
package drill

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chom.dev/agent/backup"
	"chom.dev/agent/mariadb"
	"chom.dev/agent/run"
	"chom.dev/agent/tree"
)

// FetchOrder is the order of the job Fetch.
type FetchOrder struct {
	Files    string `json:"files"`              // snapshot
	Database string `json:"database,omitempty"` // snapshot; empty for a site without one
}

// Fetched is what came out of the repository.
type Fetched struct {
	Start    time.Time  `json:"start"`
	Files    tree.Found `json:"files"` // of what was written
	Database *Database  `json:"database,omitempty"`
}

// Database is what a server made of the dump.
type Database struct {
	SHA256 []byte         `json:"sha256"` // of the dump
	Bytes  uint64         `json:"bytes"`
	Tables []backup.Table `json:"tables"` // by name, with the rows that the server counts
}

// Jobs are those of this package, for backup.Enter.
func Jobs() map[string]backup.Job { return map[string]backup.Job{FetchJob: fetch} }

// FetchJob is the name of the job.
const FetchJob = "drill"

const mariadbClient = "/usr/bin/mariadb"

// fetch restores a backup, and finds out what that has become. Programs of the site
// run later, and change what they like.
func fetch(ctx context.Context, s *backup.Inside, text json.RawMessage) (any, error) {
	var o FetchOrder
	if err := json.Unmarshal(text, &o); err != nil {
		return nil, err
	}
	f := Fetched{Start: time.Now().UTC()}
	if err := s.WriteFiles(ctx, o.Files, s.Shell); err != nil {
		return nil, fmt.Errorf("restore files: %w", err)
	}
	files, err := tree.Find(ctx, s.Shell)
	if err != nil {
		return nil, err
	}
	f.Files = *files
	if o.Database != "" {
		if f.Database, err = fetchDatabase(ctx, s, o.Database); err != nil {
			return nil, fmt.Errorf("restore database: %w", err)
		}
	}
	return f, nil
}

func fetchDatabase(ctx context.Context, s *backup.Inside, snapshot string) (_ *Database, err error) {
	dir := s.Shell + "/" + tree.DrillDatabase
	if err := mariadb.MakePrivate(ctx, dir); err != nil {
		return nil, err
	}
	server, err := mariadb.StartPrivate(ctx, dir, s.MariaDB)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.End(ctx)) }()
	schema := s.Handle.DBName()
	if err := server.MakeSchema(ctx, schema); err != nil {
		return nil, err
	}
	client := run.Cmd{Path: mariadbClient, Timeout: s.Timeout, Args: []string{
		"--no-defaults", "--socket=" + s.MariaDB, "--user=" + s.Handle.UnixUser().String(), "--default-character-set=utf8mb4",
		"--sandbox", "--batch", "--max-allowed-packet=1G", "--database=" + schema.String(),
	}}
	dump, err := s.ReadDatabase(ctx, snapshot, client)
	if err != nil {
		return nil, err
	}
	client.Stdin = strings.NewReader(string(dump.Objects))
	if _, err := client.Run(ctx); err != nil {
		return nil, fmt.Errorf("its views, triggers and routines can't be made: %w", err)
	}
	rows, err := server.Count(ctx, schema)
	if err != nil {
		return nil, err
	}
	d := &Database{SHA256: dump.SHA256, Bytes: dump.Bytes, Tables: make([]backup.Table, 0, len(rows))}
	for name, n := range rows {
		d.Tables = append(d.Tables, backup.Table{Name: name, Rows: n})
	}
	slices.SortFunc(d.Tables, func(a, b backup.Table) int { return cmp.Compare(a.Name, b.Name) })
	return d, nil
}
