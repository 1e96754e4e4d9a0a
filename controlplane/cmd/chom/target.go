package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
)

func (p *program) targetCommand() *cobra.Command {
	cmd := group("target", "Backup targets: places of one's own that backups are kept in", []string{"targets"},
		p.targetCreate(), p.targetList(), p.targetShow(), p.targetUpdate(), p.targetCheck(), p.targetDelete())
	cmd.Long = `Backups of the sites that go by a policy with a target (chom backup policy update POLICY --target TARGET) are kept there instead of in
the platform's own store. A site's backups stay where the first one of them was kept.

Only the control plane speaks to a target: no server learns what lets in to it, and none can change or delete what it has put
there. What is kept there is encrypted.

A TARGET is named by its name or id.`
	return cmd
}

// targetHelp says what is asked for.
const targetHelp = `A bucket is any that speaks Amazon S3's protocol over TLS. It is there already, and the access key may list it, and read, write and
delete in it. With Backblaze B2 the endpoint is that of the bucket (https://s3.eu-central-003.backblazeb2.com), the region is
its middle part (eu-central-003), and keyID and applicationKey are of a key with the capabilities listFiles, readFiles,
writeFiles and deleteFiles.

An SSH server may be any that has SFTP; the directory is there already. Its key is what ssh-keyscan HOST shows after the name, once it
was compared with what the server's owner says: no other one is ever accepted. A private key must have no passphrase.

An object is written there, read, listed and deleted before anything is stored. What lets in is sealed, and never shown again.`

// targetFlags are what flags say of a target.
type targetFlags struct {
	s3, region, accessKeyID string
	sftp, hostKey           string
	secret                  string
}

func (f *targetFlags) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.s3, "s3", "", "the bucket, as https://ENDPOINT/BUCKET or https://ENDPOINT/BUCKET/PREFIX")
	flags.StringVar(&f.region, "region", "", "its region, where the service has some")
	flags.StringVar(&f.accessKeyID, "access-key-id", "", "the id of the access key")
	flags.StringVar(&f.sftp, "sftp", "", "the directory of an SSH server, as sftp://USER@HOST/DIRECTORY or sftp://USER@HOST:PORT/DIRECTORY; /~/ begins where the user does")
	flags.StringVar(&f.hostKey, "host-key", "", `the server's public key: "ssh-ed25519 AAAA..."`)
	flags.StringVar(&f.secret, "secret-file", "", "file with the secret of the access key, or with the SSH user's private key or password; - for standard input")
}

// directory is the directory that flags name over a place.
func (f *targetFlags) directory(cmd *cobra.Command, place *backupv1.SftpPlace) (*backupv1.SftpPlace, error) {
	if place == nil {
		place = &backupv1.SftpPlace{}
	}
	if cmd.Flags().Changed("sftp") {
		u, err := url.Parse(f.sftp)
		if err != nil || u.Scheme != "sftp" || u.Hostname() == "" || u.User.Username() == "" || u.RawQuery != "" || strings.Trim(u.Path, "/") == "" {
			return nil, usagef("--sftp must be sftp://USER@HOST/DIRECTORY or sftp://USER@HOST:PORT/DIRECTORY")
		}
		if _, given := u.User.Password(); given {
			return nil, usagef("--sftp must hold no password: it belongs into --secret-file")
		}
		port := uint64(22)
		if u.Port() != "" {
			if port, err = strconv.ParseUint(u.Port(), 10, 16); err != nil {
				return nil, usagef("--sftp: the port must be 1 to 65535")
			}
		}
		place.Host, place.Port, place.User, place.Directory = u.Hostname(), uint32(port), u.User.Username(), u.Path
		if within, relative := strings.CutPrefix(u.Path, "/~/"); relative {
			place.Directory = within
		}
	}
	if cmd.Flags().Changed("host-key") {
		place.HostKey = f.hostKey
	}
	return place, nil
}

// bucket is the bucket that flags name over a place.
func (f *targetFlags) bucket(cmd *cobra.Command, place *backupv1.S3Place) (*backupv1.S3Place, error) {
	if place == nil {
		place = &backupv1.S3Place{}
	}
	if cmd.Flags().Changed("s3") {
		u, err := url.Parse(f.s3)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") == "" {
			return nil, usagef("--s3 must be https://ENDPOINT/BUCKET or https://ENDPOINT/BUCKET/PREFIX")
		}
		place.Endpoint = "https://" + u.Host
		place.Bucket, place.Prefix, _ = strings.Cut(strings.Trim(u.Path, "/"), "/")
	}
	if cmd.Flags().Changed("region") {
		place.Region = f.region
	}
	if cmd.Flags().Changed("access-key-id") {
		place.AccessKeyId = f.accessKeyID
	}
	return place, nil
}

// given says whether any of some flags was given.
func given(cmd *cobra.Command, flags ...string) bool {
	return slices.ContainsFunc(flags, cmd.Flags().Changed)
}

// credentials reads what lets in to a bucket, or to an SSH server.
func (f *targetFlags) credentials(p *program, ssh bool) (*backupv1.TargetCredentials, error) {
	from := p.in
	if f.secret != "-" {
		file, err := os.Open(f.secret)
		if err != nil {
			return nil, fmt.Errorf("--secret-file: %w", err)
		}
		defer file.Close()
		from = file
	}
	text, err := io.ReadAll(io.LimitReader(from, maxCredentials+1))
	if err == nil && len(text) > maxCredentials {
		err = errors.New("more than 64 KiB")
	}
	if err != nil {
		return nil, fmt.Errorf("--secret-file: %w", err)
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" {
		return nil, usagef("--secret-file holds nothing")
	}
	switch {
	case !ssh:
		return &backupv1.TargetCredentials{Secret: &backupv1.TargetCredentials_SecretAccessKey{SecretAccessKey: secret}}, nil
	case strings.HasPrefix(secret, "-----BEGIN "):
		return &backupv1.TargetCredentials{Secret: &backupv1.TargetCredentials_PrivateKey{PrivateKey: secret + "\n"}}, nil
	}
	return &backupv1.TargetCredentials{Secret: &backupv1.TargetCredentials_Password{Password: secret}}, nil
}

func (p *program) targetCreate() *cobra.Command {
	var f targetFlags
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Connect a place that backups are to be kept in",
		Long:  targetHelp,
		Example: `  chom backup target create offsite --s3 https://s3.eu-central-003.backblazeb2.com/acme-backups --region eu-central-003 \
      --access-key-id 0035f2c9 --secret-file b2.key
  pass show s3/backups | chom backup target create offsite --s3 https://s3.example.com/backups/chom --access-key-id AKIA5 --secret-file -
  chom backup target create box --sftp sftp://u123@u123.example.com:23/backups --host-key "ssh-ed25519 AAAAC3..." --secret-file box.key`,
		Args: exactly(1),
	}
	cmd.RunE = p.action(func(ctx context.Context, c *client, args []string) error {
		ofS3, ofSFTP := f.s3 != "" && f.accessKeyID != "", f.sftp != "" && f.hostKey != ""
		if ofS3 == ofSFTP || f.secret == "" {
			return usagef("--s3 and --access-key-id, or --sftp and --host-key, and --secret-file are needed")
		}
		request := &backupv1.CreateTargetRequest{Name: args[0]}
		if ofS3 {
			place, err := f.bucket(cmd, nil)
			if err != nil {
				return err
			}
			request.Place = &backupv1.CreateTargetRequest_S3{S3: place}
		} else {
			place, err := f.directory(cmd, nil)
			if err != nil {
				return err
			}
			request.Place = &backupv1.CreateTargetRequest_Sftp{Sftp: place}
		}
		var err error
		if request.Credentials, err = f.credentials(p, ofSFTP); err != nil {
			return err
		}
		if request.OrganizationId, err = p.organizationID(ctx, c); err != nil {
			return err
		}
		made, err := c.Targets.CreateTarget(ctx, request)
		if err != nil {
			return err
		}
		return p.showTarget(made.GetTarget())
	})
	f.flags(cmd)
	return p.organizationFlag(cmd)
}

func (p *program) targetList() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List an organization's backup targets",
		Args:    exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			all, err := c.targets(ctx, organization)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, one := range all {
				rows = append(rows, []string{one.GetName(), placeText(one), one.GetId(), one.GetProblem()})
			}
			return p.print(list(all), column(rows, 0), func() error {
				return printTable(p.out, []string{"NAME", "PLACE", "ID", "PROBLEM"}, rows)
			})
		}),
	})
}

func (p *program) targetShow() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:               "show TARGET",
		Short:             "Show a backup target, without what lets in",
		Args:              exactly(1),
		ValidArgsFunction: first(p.targetNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			named, err := p.namedTarget(ctx, c, args[0])
			if err != nil {
				return err
			}
			found, err := c.Targets.GetTarget(ctx, &backupv1.GetTargetRequest{OrganizationId: named.GetOrganizationId(), TargetId: named.GetId()})
			if err != nil {
				return err
			}
			return p.showTarget(found.GetTarget())
		}),
	})
}

func (p *program) targetUpdate() *cobra.Command {
	var f targetFlags
	var name string
	cmd := &cobra.Command{
		Use:   "update TARGET",
		Short: "Change a backup target, or what lets in to it",
		Long: `Update changes what is named and leaves the rest. It is tried as a new one is. Where backups lie already it must go on being
the same place.`,
		Example:           `  chom backup target update offsite --access-key-id AKIA6 --secret-file new.key`,
		Args:              exactly(1),
		ValidArgsFunction: first(p.targetNames),
	}
	cmd.RunE = p.action(func(ctx context.Context, c *client, args []string) error {
		now, err := p.namedTarget(ctx, c, args[0])
		if err != nil {
			return err
		}
		request := &backupv1.UpdateTargetRequest{OrganizationId: now.GetOrganizationId(), TargetId: now.GetId(), Name: name}
		var paths []string
		if given(cmd, "s3", "region", "access-key-id") {
			place, err := f.bucket(cmd, now.GetS3())
			if err != nil {
				return err
			}
			request.Place, paths = &backupv1.UpdateTargetRequest_S3{S3: place}, []string{"place"}
		}
		if given(cmd, "sftp", "host-key") {
			place, err := f.directory(cmd, now.GetSftp())
			if err != nil {
				return err
			}
			request.Place, paths = &backupv1.UpdateTargetRequest_Sftp{Sftp: place}, []string{"place"}
		}
		if f.secret != "" {
			if request.Credentials, err = f.credentials(p, now.GetSftp() != nil); err != nil {
				return err
			}
			paths = append(paths, "credentials")
		}
		if cmd.Flags().Changed("name") {
			paths = append(paths, "name")
		}
		if len(paths) == 0 {
			return usagef("nothing to change")
		}
		request.UpdateMask = &fieldmaskpb.FieldMask{Paths: paths}
		updated, err := c.Targets.UpdateTarget(ctx, request)
		if err != nil {
			return err
		}
		return p.showTarget(updated.GetTarget())
	})
	f.flags(cmd)
	cmd.Flags().StringVar(&name, "name", "", "the new name")
	return p.organizationFlag(cmd)
}

func (p *program) targetCheck() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:               "check TARGET",
		Short:             "Write an object to a backup target, read, list and delete it",
		Args:              exactly(1),
		ValidArgsFunction: first(p.targetNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			named, err := p.namedTarget(ctx, c, args[0])
			if err != nil {
				return err
			}
			found, err := c.Targets.CheckTarget(ctx, &backupv1.CheckTargetRequest{OrganizationId: named.GetOrganizationId(), TargetId: named.GetId()})
			if err != nil {
				return err
			}
			if err := p.showTarget(found.GetTarget()); err != nil {
				return err
			}
			if words := found.GetTarget().GetProblem(); words != "" {
				return &problem{code: exitTaskFailed, text: "the target does not work: " + plain(words)}
			}
			return nil
		}),
	})
}

func (p *program) targetDelete() *cobra.Command {
	var yes bool
	return yesFlag(p.organizationFlag(&cobra.Command{
		Use:               "delete TARGET",
		Aliases:           []string{"rm"},
		Short:             "Forget a backup target in which no site's backups lie",
		Long:              "What lets in is forgotten too. What may still lie there of sites that are gone is yours to delete.",
		Args:              exactly(1),
		ValidArgsFunction: first(p.targetNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			now, err := p.namedTarget(ctx, c, args[0])
			if err != nil {
				return err
			}
			if err := p.confirm(yes, "This forgets the backup target "+plain(now.GetName())+" and what lets in to it", now.GetName()); err != nil {
				return err
			}
			gone, err := c.Targets.DeleteTarget(ctx, &backupv1.DeleteTargetRequest{OrganizationId: now.GetOrganizationId(), TargetId: now.GetId()})
			if err != nil {
				return err
			}
			return p.done(gone, "The backup target %s is removed.", now.GetName())
		}),
	}), &yes)
}

// targets are all of an organization's.
func (c *client) targets(ctx context.Context, organization string) ([]*backupv1.Target, error) {
	all, err := c.Targets.ListTargets(ctx, &backupv1.ListTargetsRequest{OrganizationId: organization})
	return all.GetTargets(), err
}

// target finds a target by its name or id.
func (c *client) target(ctx context.Context, organization, nameOrID string) (*backupv1.Target, error) {
	all, err := c.targets(ctx, organization)
	if err != nil {
		return nil, err
	}
	return only(all, "backup target", nameOrID, "chom backup target list", (*backupv1.Target).GetId, (*backupv1.Target).GetName)
}

func (p *program) namedTarget(ctx context.Context, c *client, nameOrID string) (*backupv1.Target, error) {
	organization, err := p.organizationID(ctx, c)
	if err != nil {
		return nil, err
	}
	return c.target(ctx, organization, nameOrID)
}

func (p *program) targetNames(cmd *cobra.Command) []string {
	return p.remoteNames(cmd, func(ctx context.Context, c *client) ([]string, error) {
		organization, err := p.organizationID(ctx, c)
		if err != nil {
			return nil, err
		}
		all, err := c.targets(ctx, organization)
		var names []string
		for _, one := range all {
			names = append(names, cobra.CompletionWithDesc(one.GetName(), plain(placeText(one))))
		}
		return names, err
	})
}

// placeText is where a target is, as flags say it.
func placeText(one *backupv1.Target) string {
	if at := one.GetSftp(); at != nil {
		within := at.GetDirectory()
		if !path.IsAbs(within) {
			within = "/~/" + within
		}
		return "sftp://" + at.GetUser() + "@" + net.JoinHostPort(at.GetHost(), strconv.FormatUint(uint64(at.GetPort()), 10)) + within
	}
	s3 := one.GetS3()
	return strings.TrimSuffix(s3.GetEndpoint()+"/"+s3.GetBucket()+"/"+s3.GetPrefix(), "/")
}

func (p *program) showTarget(one *backupv1.Target) error {
	return p.print(one, []string{one.GetName()}, func() error {
		return printFields(p.out, [][2]string{
			{"name", one.GetName()},
			{"id", one.GetId()},
			{"place", placeText(one)},
			{"region", one.GetS3().GetRegion()},
			{"access key id", one.GetS3().GetAccessKeyId()},
			{"host key", one.GetSftp().GetHostKey()},
			{"created", at(one.GetCreateTime())},
			{"changed", at(one.GetUpdateTime())},
			{"checked", at(one.GetCheckTime())},
			{"problem", one.GetProblem()},
		})
	})
}

// targetName is the name of the target that a site's backups lie in; empty for the platform's own store. All of them lie in one place.
func (c *client) targetName(ctx context.Context, organization string, backups ...*backupv1.Backup) (string, error) {
	if len(backups) == 0 || backups[0].GetTargetId() == "" {
		return "", nil
	}
	found, err := c.target(ctx, organization, backups[0].GetTargetId())
	return found.GetName(), err
}
