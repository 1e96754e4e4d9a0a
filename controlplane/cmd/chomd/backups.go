package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"chom.dev/controlplane/backup"
	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/backup/target"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/keyfile"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/secret"
	"chom.dev/proto/contract"
)

// backupsConfig says where sites' backups are kept.
type backupsConfig struct {
	BackupDir           string `koanf:"backup-dir"`
	BackupS3            string `koanf:"backup-s3"`
	BackupS3Region      string `koanf:"backup-s3-region"`
	BackupS3Credentials string `koanf:"backup-s3-credentials"`
	Restic              string `koanf:"restic"`

	BackupQuota string        `koanf:"backup-quota"`
	BackupEvery time.Duration `koanf:"backup-every"`
	DrillEvery  time.Duration `koanf:"drill-every"`

	UploadDir   string `koanf:"upload-dir"`
	UploadQuota int    `koanf:"upload-quota"`
}

func backupsFlags(f *pflag.FlagSet) {
	f.String("backup-dir", "", "folder that sites' backups are stored in; they hold everything that the sites do, encrypted by keys in the database (default DATA-DIR/backups, unless backup-s3 is given)")
	f.String("backup-s3", "", "bucket that they are stored in instead, as https://ENDPOINT/BUCKET or https://ENDPOINT/BUCKET/PREFIX")
	f.String("backup-s3-region", "", "its region, where the provider has some")
	f.String("backup-s3-credentials", "", "file with the access key's id on its first line and the secret key on its second, which only this user may read")
	f.String("restic", "", "the restic program, 0.14 or newer, by which backups are checked (default /usr/bin/restic or /usr/local/bin/restic)")
	f.String("backup-quota", "0", "how much the backups of an organization may take for which chom organization quota has not set it, for example 50G; 0 for no limit")
	f.Duration("backup-every", 24*time.Hour, "how often sites are backed up by themselves that no backup policy of their organization is for, 15m to 744h; 0 for never")
	f.String("upload-dir", "", "folder that what people upload to be imported lies in for a day at most, unencrypted (default DATA-DIR/uploads)")
	f.Int("upload-quota", 50, "how many GiB the uploads of an organization may come to at once, 1 to 100000")
	f.Duration("drill-every", 7*24*time.Hour, "how often a backup of each site is restored to a scratch place on its server to prove that it can be, 1h to 8760h; 0 for never by itself")
}

func (c *backupsConfig) checkBackups(rule func(bool, string, string)) {
	rule(c.BackupDir == "" || filepath.IsAbs(c.BackupDir), "backup-dir", "must be an absolute path")
	rule(c.BackupDir == "" || c.BackupS3 == "", "backup-s3", "and backup-dir exclude each other")
	rule((c.BackupS3 == "") == (c.BackupS3Credentials == ""), "backup-s3", "and backup-s3-credentials must be given together")
	if c.BackupS3 != "" {
		_, err := c.bucket(secret.Secret{}, "")
		rule(err == nil, "backup-s3", "must be https://ENDPOINT/BUCKET or https://ENDPOINT/BUCKET/PREFIX")
	}
	rule(c.Restic == "" || filepath.IsAbs(c.Restic), "restic", "must be an absolute path")
	_, err := c.quota()
	rule(err == nil, "backup-quota", "must be a number of at most 1024T with an optional unit of K, M, G or T, or 0")
	rule(c.BackupEvery == 0 || c.BackupEvery >= 15*time.Minute && c.BackupEvery <= 744*time.Hour && c.BackupEvery%time.Second == 0, "backup-every", "must be 15m to 744h in whole seconds, or 0")
	rule(c.UploadDir == "" || filepath.IsAbs(c.UploadDir), "upload-dir", "must be an absolute path")
	rule(c.UploadQuota >= 1 && c.UploadQuota <= 100_000, "upload-quota", "must be 1 to 100000")
	rule(c.DrillEvery == 0 || c.DrillEvery >= time.Hour && c.DrillEvery <= 8760*time.Hour, "drill-every", "must be 1h to 8760h, or 0")
}

// quota is what organizations may use for backups unless something else is set; 0 for no limit.
func (c *backupsConfig) quota() (uint64, error) {
	if c.BackupQuota == "0" || c.BackupQuota == "" {
		return 0, nil
	}
	size, err := contract.ParseByteSize(c.BackupQuota)
	if err == nil && uint64(size.Bytes()) > organization.MaxQuota {
		err = errors.New("it is too large")
	}
	return uint64(size.Bytes()), err
}

// bucket opens the bucket, without a word to it.
func (c *backupsConfig) bucket(key secret.Secret, id string) (*store.S3, error) {
	u, err := url.Parse(c.BackupS3)
	if err != nil {
		return nil, err
	}
	bucket, prefix, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if bucket == "" || u.User != nil || u.RawQuery != "" {
		return nil, errors.New("it names no bucket")
	}
	return store.OpenS3(store.S3Config{
		Endpoint: u.Scheme + "://" + u.Host, Region: c.BackupS3Region, Bucket: bucket, Prefix: prefix, AccessKey: id, SecretKey: key,
	})
}

// openStore opens what backups are kept in.
func (c *config) openStore(ctx context.Context) (store.Store, error) {
	if c.BackupS3 == "" {
		if c.BackupDir == "" {
			return store.OpenDisk(filepath.Join(c.DataDir, "backups"))
		}
		return store.OpenDisk(c.BackupDir)
	}
	text, err := keyfile.Read(c.BackupS3Credentials)
	if err != nil {
		return nil, fmt.Errorf("read backup-s3-credentials: %w", err)
	}
	id, key, ok := strings.Cut(strings.TrimSpace(string(text)), "\n")
	if !ok || id == "" || strings.ContainsAny(strings.TrimSpace(key), " \n") {
		return nil, fmt.Errorf("%s must have two lines: the access key's id, and the secret key", c.BackupS3Credentials)
	}
	bucket, err := c.bucket(secret.New([]byte(strings.TrimSpace(key))), strings.TrimSpace(id))
	if err != nil {
		return nil, err
	}
	if err := bucket.Ready(ctx); err != nil {
		return nil, fmt.Errorf("backup-s3: %w", err)
	}
	return bucket, nil
}

// openTargets gives the places of organizations' own that backups are kept in, beside the platform's store.
func (c *config) openTargets(ctx context.Context, d *db.DB, keys *secret.Keyring, log *slog.Logger) (*target.Targets, error) {
	own, err := c.openStore(ctx)
	if err != nil {
		return nil, err
	}
	dialer, err := c.dialer()
	if err != nil {
		return nil, err
	}
	return target.New(d, log, target.Config{Keys: keys, Own: own, Dialer: dialer}), nil
}

// uploadFloor is what stays free on the disk of uploads, which may be that of the database.
const uploadFloor = 2 << 30

// openBackups gives the backups of sites, and the way of hosts to their repositories; settings are what this does not add. Without
// restic there are none, and people who ask for one hear why.
func (c *config) openBackups(ctx context.Context, d *db.DB, log *slog.Logger, kept store.Store, settings backup.Config) (*backup.Backups, *store.Server, error) {
	settings.Every, settings.DrillEvery = c.BackupEvery, c.DrillEvery
	quota, err := c.quota()
	if err != nil {
		return nil, nil, err
	}
	settings.Quota = quota
	settings.Uploads = backup.UploadConfig{Dir: cmp.Or(c.UploadDir, filepath.Join(c.DataDir, "uploads")), Quota: int64(c.UploadQuota) << 30, Floor: uploadFloor}
	if err := os.MkdirAll(settings.Uploads.Dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("open the folder of uploads: %w", err)
	}
	read, err := backup.NewRepositories(kept, c.Restic, log)
	if err != nil {
		log.WarnContext(ctx, "sites are not backed up", "err", err)
		settings.Off = "this control plane makes no backups: restic is missing on its machine. Its operator has to install it (apt-get install restic) and to restart chomd"
		settings.Repositories = absent{kept, err}
	} else {
		settings.Repositories = read
	}
	backups, err := backup.New(d, log, settings)
	if err != nil {
		return nil, nil, err
	}
	return backups, store.NewServer(kept, backups, log), nil
}

// absent stands for a restic that is not installed. What was stored is still removed with its site.
type absent struct {
	store store.Store
	why   error
}

func (a absent) Check(context.Context, backup.Repository) error { return a.why }

func (a absent) List(context.Context, backup.Repository, string) (*contract.Listing, error) {
	return nil, a.why
}

func (a absent) Browse(context.Context, backup.Repository, string, string, func(contract.Listed) error) error {
	return a.why
}

func (a absent) Read(context.Context, backup.Repository, string, string, io.Writer) error {
	return a.why
}

func (a absent) Init(context.Context, backup.Repository) error { return a.why }

func (a absent) Copy(context.Context, backup.Repository, backup.Repository, ...string) ([]string, error) {
	return nil, a.why
}

func (a absent) Walk(context.Context, backup.Repository, string, func(contract.Listed, string, io.Reader) error) error {
	return a.why
}

func (a absent) SaveFiles(context.Context, backup.Repository, contract.BackupID, string) (string, uint64, error) {
	return "", 0, a.why
}

func (a absent) SaveDump(context.Context, backup.Repository, contract.BackupID, io.Reader) (string, uint64, error) {
	return "", 0, a.why
}

func (a absent) PutManifest(context.Context, backup.Repository, uint64, []byte) error { return a.why }

func (a absent) Verify(context.Context, backup.Repository, int, int) error { return a.why }

func (a absent) Snapshots(context.Context, backup.Repository) ([]string, error) { return nil, a.why }

func (a absent) Forget(context.Context, backup.Repository, []string, []uint64) error { return a.why }

func (a absent) Usage(context.Context, backup.Repository) (uint64, error) { return 0, a.why }

func (a absent) Remove(ctx context.Context, organization contract.OrganizationID, site contract.SiteID) error {
	return a.store.Remove(ctx, store.Repository{Organization: organization, Site: site})
}
