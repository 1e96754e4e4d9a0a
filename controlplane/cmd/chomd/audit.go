package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/pki"
)

// openExisting opens what serve made, with the key of its seals; a command must not make a database or a key where there is none.
func (c *config) openExisting(ctx context.Context) (*db.DB, error) {
	files := []string{c.pkiDir()}
	if path, ok := strings.CutPrefix(c.Database, "sqlite:"); ok {
		files = append(files, path)
	}
	for _, path := range files {
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("open %s: %w; is this the data directory of chomd serve?", filepath.Base(path), err)
		}
	}
	authority, err := pki.Open(c.pkiDir())
	if err != nil {
		return nil, err
	}
	d, err := db.Open(ctx, c.Database)
	if err != nil {
		return nil, err
	}
	d.SetSealKey(authority.SealKey())
	return d, nil
}

func verifyAudit(ctx context.Context, c config, out io.Writer) (err error) {
	d, err := c.openExisting(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	exported, err := audit.ReadHeads(c.headsFile())
	if err != nil {
		return err
	}
	checked, err := audit.New(d).Verify(ctx, exported)
	if err != nil {
		return err
	}
	for _, damage := range checked.Damages {
		if _, err := fmt.Fprintf(out, "%s: event %d %s\n", nameOf(damage.Organization), damage.Sequence, damage.What); err != nil {
			return err
		}
	}
	if n := len(checked.Damages); n > 0 {
		return fmt.Errorf("%d of %d histories are not as they were recorded", n, checked.Chains)
	}
	_, err = fmt.Fprintf(out, "%d events in %d histories are as they were recorded.\n", checked.Events, checked.Chains)
	return err
}

func nameOf(organization string) string {
	if organization == audit.Platform {
		return "the platform"
	}
	return "organization " + organization
}
