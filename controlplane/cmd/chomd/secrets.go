package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/backup"
	"chom.dev/controlplane/backup/target"
	certs "chom.dev/controlplane/certificate"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/domain"
	notices "chom.dev/controlplane/notify"
	"chom.dev/controlplane/secret"
	"chom.dev/controlplane/secret/keycommand"
	"chom.dev/controlplane/webhook"
)

// sealedColumns are all columns with sealed values. One that is missing here is lost with the key that sealed it.
var sealedColumns = append([]secret.Column{secret.ValuesColumn, account.Sealed, notices.Sealed, certs.Sealed, domain.SealedProviders, backup.Sealed, target.Sealed}, webhook.Sealed...)

// openSecrets gives the keys of the database, from where the configuration says.
func (c *config) openSecrets(ctx context.Context, d *db.DB, log *slog.Logger) (*secret.Keyring, error) {
	var source secret.Source = secret.NewFile(c.SecretsKey)
	if c.credential {
		source = secret.NewCredential(c.SecretsKey)
	}
	if c.SecretsKeyCommand != "" {
		command, err := keycommand.New(c.SecretsKeyCommand)
		if err != nil {
			return nil, wrongConfig{"secrets-key-command: " + err.Error()}
		}
		source = command
	}
	return secret.Open(ctx, d, source, log)
}

// withSecrets does something with the database and its keys, on behalf of whoever is at the console.
func withSecrets(ctx context.Context, c config, log *slog.Logger, do func(context.Context, *db.DB, *secret.Keyring) error) (err error) {
	d, err := c.openExisting(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	keys, err := c.openSecrets(ctx, d, log)
	if err != nil {
		return err
	}
	return do(audit.As(ctx, audit.Actor{Kind: audit.Console}), d, keys)
}

func rotateSecrets(ctx context.Context, c config, out io.Writer, log *slog.Logger) error {
	return withSecrets(ctx, c, log, func(ctx context.Context, d *db.DB, keys *secret.Keyring) error {
		if err := secret.Rotate(ctx, d, keys, sealedColumns, func(step string) { fmt.Fprintln(out, step) }); err != nil {
			return err
		}
		_, err := fmt.Fprintln(out, "Every secret is sealed with the newest key. Copy the file with the keys to where its copies lie.")
		return err
	})
}

func prepareKey(ctx context.Context, c config, out io.Writer, log *slog.Logger) error {
	return withSecrets(ctx, c, log, func(ctx context.Context, _ *db.DB, keys *secret.Keyring) error {
		return secret.Prepare(ctx, keys, func(step string) { fmt.Fprintln(out, step) })
	})
}

func checkSecrets(ctx context.Context, c config, out io.Writer, log *slog.Logger) error {
	return withSecrets(ctx, c, log, func(ctx context.Context, d *db.DB, keys *secret.Keyring) error {
		checked, err := secret.Check(ctx, d, keys, sealedColumns)
		if err != nil {
			return err
		}
		for _, key := range keys.Keys() {
			if _, known := checked.Values[key.Version]; !known {
				checked.Values[key.Version] = 0
			}
		}
		for _, version := range slices.Sorted(maps.Keys(checked.Values)) {
			fmt.Fprintf(out, "key version %d: %d secrets\n", version, checked.Values[version])
		}
		for _, unreadable := range checked.Unreadable {
			fmt.Fprintln(out, unreadable)
		}
		if n := len(checked.Unreadable); n > 0 {
			return fmt.Errorf("%d secrets do not open", n)
		}
		return nil
	})
}

func pruneKeys(ctx context.Context, c config, out io.Writer, log *slog.Logger) error {
	return withSecrets(ctx, c, log, func(ctx context.Context, d *db.DB, keys *secret.Keyring) error {
		old, err := secret.Prune(ctx, d, keys, sealedColumns)
		if err != nil {
			return err
		}
		if len(old) == 0 {
			_, err = fmt.Fprintln(out, "There is only one key.")
			return err
		}
		_, err = fmt.Fprintf(out, "Removed the key versions %v.\n", old)
		return err
	})
}
