package site

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"chom.dev/agent/run"
	"chom.dev/agent/task"
	"chom.dev/agent/telemetry"
	"chom.dev/agent/tree"
)

// sizeWithin bounds the walk through a site's files: some millions of them on a slow disk.
// Where the host has no time to spare, an idle one ends by it, too.
const sizeWithin = 15 * time.Minute

// MeasureTree is the helper that measures a site's files. It runs as the site's user.
func MeasureTree(ctx context.Context, dir string, out io.Writer) error {
	size, err := tree.Measure(ctx, dir)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(size)
}

// Size measures what a site takes of the disk: its files by its own user, beside what the site's
// processes may use and after all others, and its database. Either fails as a whole.
func (s *Sites) Size(ctx context.Context, site task.Site, idly bool) (telemetry.Size, error) {
	u, err := run.SiteUnit{
		Handle: site.Handle, Name: "size", Dir: "/", Timeout: sizeWithin, Offline: true, Aside: true, Idle: idly,
		Argv: []string{s.agent, "sandbox", "measure-tree", tree.Shell(site.Handle)},
	}.Unit()
	if err != nil {
		return telemetry.Size{}, err
	}
	res, err := s.systemd.Run(ctx, u)
	if err != nil {
		return telemetry.Size{}, fmt.Errorf("measure files: %w", err)
	}
	var files tree.Size
	if err := json.Unmarshal(res.Stdout, &files); err != nil {
		return telemetry.Size{}, fmt.Errorf("measure files: %w", err)
	}
	if files.Unread > 0 {
		s.log.Info("a site's user has shut himself out of directories: what is in them is not measured", "site", site.ID.String(), "directories", files.Unread)
	}
	size := telemetry.Size{Files: files.Files, Bytes: files.Bytes}
	database, there, err := s.mariadb.Size(ctx, site.Handle.DBName())
	if err != nil {
		return telemetry.Size{}, err
	}
	if there {
		size.Database = &database
	}
	return size, nil
}
