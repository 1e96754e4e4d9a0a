package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/keyfile"
	"chom.dev/controlplane/selfbackup"
)

// ownBackup says where backups of the control plane itself go.
type ownBackup struct {
	OwnBackupTo        string        `koanf:"own-backup-to"`
	OwnBackupRecipient string        `koanf:"own-backup-recipient"`
	OwnBackupEvery     time.Duration `koanf:"own-backup-every"`
	OwnBackupKeep      int           `koanf:"own-backup-keep"`
}

func ownBackupFlags(f *pflag.FlagSet) {
	f.String("own-backup-to", "", "folder for encrypted backups of the control plane itself, best on another machine's disk; serve makes one every day then")
	f.String("own-backup-recipient", "", "whom they are encrypted to: one or several of age's public keys (age1...), separated by commas. chomd backup-key makes a pair; its private half must not lie on this machine")
	f.Duration("own-backup-every", 24*time.Hour, "time from one such backup to the next")
	f.Int("own-backup-keep", 30, "how many of them are kept")
}

func (c *ownBackup) checkOwnBackup(rule func(bool, string, string)) {
	rule((c.OwnBackupTo == "") == (c.OwnBackupRecipient == ""), "own-backup-to", "and own-backup-recipient must be given together")
	rule(c.OwnBackupTo == "" || filepath.IsAbs(c.OwnBackupTo), "own-backup-to", "must be an absolute path")
	if c.OwnBackupRecipient != "" {
		_, err := c.recipients()
		rule(err == nil, "own-backup-recipient", "must be public keys of age, such as age1..., separated by commas")
	}
	rule(c.OwnBackupEvery >= time.Minute && c.OwnBackupEvery <= 31*24*time.Hour, "own-backup-every", "must be 1m to 744h")
	rule(c.OwnBackupKeep >= 1 && c.OwnBackupKeep <= 10000, "own-backup-keep", "must be 1 to 10000")
}

func (c *ownBackup) recipients() ([]age.Recipient, error) {
	return age.ParseRecipients(strings.NewReader(strings.ReplaceAll(c.OwnBackupRecipient, ",", "\n")))
}

// keeper makes backups of this control plane; nil when none are wanted.
func (c *config) keeper(d *db.DB, log *slog.Logger, metrics prometheus.Registerer) (*selfbackup.Keeper, error) {
	if c.OwnBackupTo == "" {
		return nil, nil
	}
	recipients, err := c.recipients()
	if err != nil {
		return nil, err
	}
	return selfbackup.NewKeeper(c.OwnBackupTo, c.OwnBackupEvery, c.OwnBackupKeep, log, metrics, func(ctx context.Context, to io.Writer, now time.Time) (int64, error) {
		files, err := c.ownFiles() // before the database: what is written down of the audit's ends must not be ahead of it
		if err != nil {
			return 0, err
		}
		return selfbackup.Write(ctx, to, recipients, d, files, version, now)
	})
}

// restoredKey is the place of the key for secrets, wherever it lay.
const restoredKey = "keys/secrets.key"

// ownFiles are the files without which the database is worth little.
func (c *config) ownFiles() ([]selfbackup.File, error) {
	var files []selfbackup.File
	heads, err := os.ReadFile(c.headsFile())
	if err == nil {
		files = append(files, selfbackup.File{Name: filepath.Base(c.headsFile()), Content: heads})
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the ends of the audit: %w", err)
	}
	entries, err := os.ReadDir(c.pkiDir())
	if err != nil {
		return nil, fmt.Errorf("read the keys: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		content, err := keyfile.Read(filepath.Join(c.pkiDir(), e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read the keys: %w", err)
		}
		files = append(files, selfbackup.File{Name: filepath.Base(c.pkiDir()) + "/" + e.Name(), Content: content})
	}
	if c.secretsElsewhere() {
		return files, nil
	}
	content, err := keyfile.Read(c.SecretsKey)
	if err != nil {
		return nil, fmt.Errorf("read the key for secrets: %w", err)
	}
	return append(files, selfbackup.File{Name: restoredKey, Content: content}), nil
}

// secretsElsewhere says that the keys for secrets are not ours to keep.
func (c *config) secretsElsewhere() bool { return c.credential || c.SecretsKeyCommand != "" }

// backUp makes one backup now.
func backUp(ctx context.Context, c config, out io.Writer, log *slog.Logger) (err error) {
	if c.OwnBackupTo == "" {
		return wrongConfig{"own-backup-to: and own-backup-recipient say where to, and for whom"}
	}
	d, err := c.openExisting(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	keeper, err := c.keeper(d, log, prometheus.NewRegistry())
	if err != nil {
		return err
	}
	made, rows, err := keeper.Now(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s holds the database (%d rows) and the keys.\n", made, rows)
	if c.secretsElsewhere() {
		fmt.Fprintln(out, "Not in it are the keys for secrets, which this control plane has from elsewhere: see to it that they are kept.")
	}
	return nil
}

// restore makes this machine the control plane that a backup is of.
func restore(ctx context.Context, c config, backup, key string, out io.Writer, log *slog.Logger) (err error) {
	identities, err := readIdentities(key)
	if err != nil {
		return err
	}
	f, err := os.Open(backup)
	if err != nil {
		return fmt.Errorf("open backup: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was read
	if err := c.makeDataDir(); err != nil {
		return err
	}
	d, err := db.Open(ctx, c.Database, db.WithLogger(log))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	h, rows, err := selfbackup.Read(ctx, f, identities, d, c.putBack, time.Now())
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "The control plane is what it was at %s: %d rows, made by release %s.\n", h.Time.Format(time.RFC3339), rows, h.Release)
	fmt.Fprintln(out, "Start chomd serve under the names and addresses that it had. Agents come back by themselves; servers that were enrolled after the backup must be enrolled again.")
	return nil
}

func readIdentities(file string) ([]age.Identity, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the backup's key: %w", err)
	}
	identities, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s is no private key of age: it holds a line that begins with AGE-SECRET-KEY-1", file)
	}
	return identities, nil
}

// putBack writes a file of a backup. The same may be there, of a restore that was interrupted; another is of another control
// plane, and stays.
func (c *config) putBack(f selfbackup.File) error {
	if !fs.ValidPath(f.Name) || path.Clean(f.Name) == "." {
		return fmt.Errorf("the backup has a file with the name %q", f.Name)
	}
	to := filepath.Join(c.DataDir, filepath.FromSlash(f.Name))
	if f.Name == restoredKey {
		if c.secretsElsewhere() {
			return nil // what is configured counts
		}
		to = c.SecretsKey
	}
	there, err := os.ReadFile(to)
	switch {
	case err == nil && bytes.Equal(there, f.Content):
		return nil
	case err == nil:
		return fmt.Errorf("%s is there already, and is another: restore into an empty data-dir", to)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return fmt.Errorf("put %s back: %w", f.Name, err)
	}
	return keyfile.Write(to, f.Content)
}

// makeBackupKey makes a pair of keys for backups.
func makeBackupKey(file string, out io.Writer) error {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is there already", file)
	}
	text := fmt.Sprintf("# made by chomd backup-key on %s\n# public key: %s\n%s\n", time.Now().UTC().Format(time.RFC3339), identity.Recipient(), identity)
	if err := keyfile.Write(file, []byte(text)); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "Configure the public half: own-backup-recipient: %s\nThe private half is in %s. Take it off this machine, and keep two copies of it: without it no backup opens.\n", identity.Recipient(), file)
	return err
}

// backupCommands are about the control plane itself.
func backupCommands(configured func(use, summary, details string, do func(context.Context, config) error) *cobra.Command, out, errw io.Writer) []*cobra.Command {
	create := configured("backup", "Back up the control plane itself", `Backup writes the database and the keys into one file below own-backup-to, encrypted to own-backup-recipient, while chomd serve
works. chomd serve does the same by itself every own-backup-every.

Not in it: the repositories of sites' backups, the configuration, and keys for secrets that come from systemd or from a command.`,
		func(ctx context.Context, c config) error { return backUp(ctx, c, out, c.logger(errw)) })
	back := &cobra.Command{
		Use: "restore BACKUP KEY", Short: "Make this machine the control plane that a backup is of",
		Long: `Restore fills an empty data-dir and an empty database, of either engine, with what a backup holds. KEY is the file with the
private half of the pair that it was encrypted to. It takes all or nothing, and can be run again after it was interrupted.

Start chomd serve afterwards. Agents come back by themselves. What they did since the backup is shown where it differs, and
neither repeated nor taken back.`,
		Example: `  chomd backup-key /root/chomd-backup.key
  chomd backup --own-backup-to /mnt/backup --own-backup-recipient age1...
  chomd restore --data-dir /var/lib/chomd /mnt/backup/chomd-20261126T030000Z.age chomd-backup.key`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return wrongConfig{cmd.CommandPath() + " takes two arguments: the backup, and the file with its private key"}
			}
			return nil
		},
	}
	configFlags(back.Flags())
	back.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := loadConfig(cmd.Flags(), os.Environ())
		if err != nil {
			return err
		}
		return restore(cmd.Context(), c, args[0], args[1], out, c.logger(errw))
	}
	key := &cobra.Command{
		Use: "backup-key FILE", Short: "Make the pair of keys for backups of the control plane",
		Long: `Backup-key writes a private key into FILE, which only its owner can read, and prints the public one for own-backup-recipient.
age-keygen makes such pairs, too.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return wrongConfig{cmd.CommandPath() + " takes one argument: the file for the private key"}
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error { return makeBackupKey(args[0], out) },
	}
	return []*cobra.Command{create, back, key}
}
