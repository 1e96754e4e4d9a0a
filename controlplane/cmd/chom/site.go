package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"chom.dev/proto/contract"
)

func (p *program) siteCommand() *cobra.Command {
	return group("site", "Sites: the websites of an organization", []string{"sites"},
		p.siteCreate(), p.siteList(), p.siteShow(), p.siteUpdate(),
		p.siteChange("suspend NAME", "Stop a site; visitors see a 503 page, nothing is removed",
			func(ctx context.Context, c *client, organization, id string) (changed, error) {
				return c.Sites.SuspendSite(ctx, &sitev1.SuspendSiteRequest{OrganizationId: organization, SiteId: id})
			}),
		p.siteChange("resume NAME", "Serve a suspended site again",
			func(ctx context.Context, c *client, organization, id string) (changed, error) {
				return c.Sites.ResumeSite(ctx, &sitev1.ResumeSiteRequest{OrganizationId: organization, SiteId: id})
			}),
		p.siteDelete(),
		p.siteChange("restore NAME", "Take a site out of the trash and serve it again",
			func(ctx context.Context, c *client, organization, id string) (changed, error) {
				return c.Sites.RestoreSite(ctx, &sitev1.RestoreSiteRequest{OrganizationId: organization, SiteId: id})
			}),
		p.siteCheck(), p.siteEvents(), p.siteLogs(), p.siteLogin(), p.siteImport())
}

// wanted is what flags say of a site.
type wanted struct {
	domains, redirects                   []string
	settings                             []string
	hsts                                 time.Duration
	keepHTTP                             bool
	title, adminUser, adminEmail, locale string
	cpu, tasks, workers                  uint32
	memory                               string
	tags                                 []string
	policy                               string
}

func (w *wanted) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&w.domains, "domain", nil, "name the site answers to; several times for more, the primary one first; the others may be wildcards such as *.example.com")
	f.StringSliceVar(&w.redirects, "redirect-domain", nil, "name, which must be a --domain too, that sends visitors on to the primary one; several times for more")
	f.DurationVar(&w.hsts, "hsts", 0, "how long browsers are told to come by HTTPS only, for example 8760h; they hold the site to it even after it was changed back (default not at all)")
	f.BoolVar(&w.keepHTTP, "keep-http", false, "serve plain HTTP too, instead of sending visitors on to HTTPS")
	f.StringVar(&w.title, "title", "", "setting title")
	f.StringVar(&w.adminUser, "admin-user", "", "setting admin_user (wordpress)")
	f.StringVar(&w.adminEmail, "admin-email", "", "setting admin_email (wordpress)")
	f.StringVar(&w.locale, "locale", "", "setting locale (wordpress), for example de_DE")
	f.StringArrayVar(&w.settings, "set", nil, "any setting of the site type, as key=value; several times for more")
	f.Uint32Var(&w.cpu, "cpu", 0, "CPU limit in percent of one core (default 100)")
	f.StringVar(&w.memory, "memory", "", "memory limit, for example 512M (the default) or 2G")
	f.Uint32Var(&w.tasks, "max-tasks", 0, "limit of processes and threads (default 256)")
	f.Uint32Var(&w.workers, "php-workers", 0, "PHP worker processes (default 5)")
	f.StringSliceVar(&w.tags, "tag", nil, "word to sort the site by, for example shop; several times for more. Backup policies go by them")
	f.StringVar(&w.policy, "backup-policy", "", "backup policy that the site goes by (default as its tags say: chom backup policy --help)")
}

// labels are the tags that flags say, without empty ones, and the id of the policy.
func (w *wanted) labels(ctx context.Context, c *client, organization string) (tags []string, policy string, err error) {
	tags = slices.DeleteFunc(w.tags, func(tag string) bool { return tag == "" })
	if w.policy == "" {
		return tags, "", nil
	}
	chosen, err := c.ownPolicy(ctx, organization, w.policy)
	return tags, chosen.GetId(), err
}

func (w *wanted) values() (map[string]string, error) {
	values := map[string]string{}
	for key, value := range map[string]string{"title": w.title, "admin_user": w.adminUser, "admin_email": w.adminEmail, "locale": w.locale} {
		if value != "" {
			values[key] = value
		}
	}
	for _, pair := range w.settings {
		key, value, found := strings.Cut(pair, "=")
		if !found || key == "" {
			return nil, usagef("--set takes key=value")
		}
		values[key] = value
	}
	return values, nil
}

// https lays what flags say over the present options, and tells whether they say anything.
func (w *wanted) https(cmd *cobra.Command, from *sitev1.HttpsOptions) (*sitev1.HttpsOptions, bool, error) {
	options := &sitev1.HttpsOptions{}
	if from != nil {
		options = proto.CloneOf(from)
	}
	hsts, keep := cmd.Flags().Changed("hsts"), cmd.Flags().Changed("keep-http")
	if hsts {
		if w.hsts < 0 || w.hsts > maxHSTS {
			return nil, false, usagef("--hsts: must be 0 to 17520h, which are two years")
		}
		options.HstsMaxAgeSeconds = uint32(w.hsts / time.Second)
	}
	if keep {
		options.KeepHttp = w.keepHTTP
	}
	return options, hsts || keep, nil
}

const maxHSTS = 2 * 365 * 24 * time.Hour

func (w *wanted) limits(cmd *cobra.Command, from *sitev1.Limits) (*sitev1.Limits, bool, error) {
	limits := &sitev1.Limits{}
	if from != nil {
		limits = proto.CloneOf(from)
	}
	changed := false
	for name, set := range map[string]func() error{
		"cpu":         func() error { limits.CpuPercent = w.cpu; return nil },
		"max-tasks":   func() error { limits.Tasks = w.tasks; return nil },
		"php-workers": func() error { limits.PhpWorkers = w.workers; return nil },
		"memory": func() error {
			size, err := contract.ParseByteSize(w.memory)
			if err != nil {
				return usagef("--memory: %s", err)
			}
			limits.MemoryBytes = uint64(size.Bytes())
			return nil
		},
	} {
		if cmd.Flags().Changed(name) {
			changed = true
			if err := set(); err != nil {
				return nil, false, err
			}
		}
	}
	return limits, changed, nil
}

func (p *program) siteCreate() *cobra.Command {
	var w wanted
	var siteType, server, request string
	cmd := &cobra.Command{
		Use:   "create NAME --type TYPE --domain DOMAIN",
		Short: "Make a website",
		Long: `Create places a site on a server, has it installed there and waits until its home page answers.

Types and their settings:
  static     title
  wordpress  title and admin_email (needed), admin_user (default admin), locale (default en_US)

Each name gets a certificate as soon as the organization holds it and the DNS leads to the site; the records that are still to
be set are printed with it, and chom site check NAME looks whether they are.

A WordPress site has no password to hand out: sign in to it with chom site login NAME.`,
		Example: `  chom site create blog --type wordpress --domain blog.example.com --domain www.blog.example.com \
      --title "Anna's blog" --admin-email anna@example.com
  chom site create brochure --type static --domain brochure.example.com --server web1 --memory 256M`,
		Args: exactly(1),
	}
	cmd.RunE = p.action(func(ctx context.Context, c *client, args []string) error {
		if siteType == "" || len(w.domains) == 0 {
			return usagef("--type and --domain are needed")
		}
		settings, err := w.values()
		if err != nil {
			return err
		}
		limits, limited, err := w.limits(cmd, nil)
		if err != nil {
			return err
		}
		organization, err := p.organizationID(ctx, c)
		if err != nil {
			return err
		}
		create := &sitev1.CreateSiteRequest{
			OrganizationId: organization, Name: args[0], Type: siteType, Domains: w.domains, RedirectDomains: w.redirects, Settings: settings, RequestId: request,
		}
		https, secured, err := w.https(cmd, nil)
		if err != nil {
			return err
		}
		if secured {
			create.Https = https
		}
		if limited {
			create.Limits = limits
		}
		if server != "" {
			if create.ServerId, err = c.serverID(ctx, server); err != nil {
				return err
			}
		}
		if create.Tags, create.BackupPolicyId, err = w.labels(ctx, c, organization); err != nil {
			return err
		}
		made, err := c.Sites.CreateSite(ctx, create)
		if err != nil {
			return err
		}
		return p.finishSite(ctx, c, made)
	})
	w.flags(cmd)
	completeFlag(cmd, "backup-policy", p.policyNames)
	cmd.Flags().StringVar(&siteType, "type", "", "site type: wordpress or static")
	cmd.Flags().StringVar(&server, "server", "", "name or id of the server to hold it; left out, the fleet chooses")
	completeFlag(cmd, "type", fixed("static", "wordpress"))
	completeFlag(cmd, "server", p.serverNames)
	cmd.Flags().StringVar(&request, "request-id", "", "an id of your own: a repeat with the same id gives the same site (default random)")
	return p.organizationFlag(p.waitFlag(cmd))
}

func (p *program) siteUpdate() *cobra.Command {
	var w wanted
	cmd := &cobra.Command{
		Use:   "update NAME",
		Short: "Change a site's domains, HTTPS, settings, limits, tags or backup policy",
		Long: `Update changes what is named and leaves the rest. Domains, those that redirect, and tags are replaced as a whole; settings are
merged by key. --redirect-domain "" has none of them redirect, --tag "" takes all tags away, and --backup-policy "" lets the tags
choose.`,
		Example: `  chom site update blog --domain blog.example.com --domain news.example.com
  chom site update blog --domain example.com --domain www.example.com --redirect-domain www.example.com --hsts 8760h
  chom site update blog --memory 1G --php-workers 10
  chom site update blog --tag shop --tag eu`,
		Args:              exactly(1),
		ValidArgsFunction: first(p.siteNames),
	}
	cmd.RunE = p.action(func(ctx context.Context, c *client, args []string) error {
		settings, err := w.values()
		if err != nil {
			return err
		}
		organization, id, err := p.siteID(ctx, c, args[0])
		if err != nil {
			return err
		}
		now, err := c.Sites.GetSite(ctx, &sitev1.GetSiteRequest{OrganizationId: organization, SiteId: id})
		if err != nil {
			return err
		}
		limits, limited, err := w.limits(cmd, now.GetSite().GetLimits())
		if err != nil {
			return err
		}
		https, secured, err := w.https(cmd, now.GetSite().GetHttps())
		if err != nil {
			return err
		}
		update := &sitev1.UpdateSiteRequest{OrganizationId: organization, SiteId: id, UpdateMask: &fieldmaskpb.FieldMask{}}
		if len(w.domains) > 0 {
			update.Domains = w.domains
			update.UpdateMask.Paths = append(update.UpdateMask.Paths, "domains")
		}
		if cmd.Flags().Changed("redirect-domain") {
			update.RedirectDomains = slices.DeleteFunc(w.redirects, func(name string) bool { return name == "" })
			update.UpdateMask.Paths = append(update.UpdateMask.Paths, "redirect_domains")
		}
		if secured {
			update.Https = https
			update.UpdateMask.Paths = append(update.UpdateMask.Paths, "https")
		}
		if len(settings) > 0 {
			update.Settings = settings
			update.UpdateMask.Paths = append(update.UpdateMask.Paths, "settings")
		}
		if limited {
			update.Limits = limits
			update.UpdateMask.Paths = append(update.UpdateMask.Paths, "limits")
		}
		if update.Tags, update.BackupPolicyId, err = w.labels(ctx, c, organization); err != nil {
			return err
		}
		for _, label := range []struct{ flag, field string }{{"tag", "tags"}, {"backup-policy", "backup_policy_id"}} {
			if cmd.Flags().Changed(label.flag) {
				update.UpdateMask.Paths = append(update.UpdateMask.Paths, label.field)
			}
		}
		if len(update.UpdateMask.Paths) == 0 {
			return usagef("nothing to change")
		}
		answer, err := c.Sites.UpdateSite(ctx, update)
		if err != nil {
			return err
		}
		return p.finishSite(ctx, c, answer)
	})
	w.flags(cmd)
	completeFlag(cmd, "backup-policy", p.policyNames)
	return p.organizationFlag(p.waitFlag(cmd))
}

// changed is what every change of a site answers.
type changed interface {
	GetSite() *sitev1.Site
	GetTask() *taskv1.Task
}

func (p *program) siteChange(use, summary string, change func(ctx context.Context, c *client, organization, id string) (changed, error)) *cobra.Command {
	return p.organizationFlag(p.waitFlag(&cobra.Command{
		Use:               use,
		Short:             summary,
		Args:              exactly(1),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.siteID(ctx, c, args[0])
			if err != nil {
				return err
			}
			answer, err := change(ctx, c, organization, id)
			if err != nil {
				return err
			}
			return p.finishSite(ctx, c, answer)
		}),
	}))
}

func (p *program) siteDelete() *cobra.Command {
	var yes bool
	return yesFlag(p.siteChange("delete NAME", "Put a site into the trash, from which it can be restored for some days",
		func(ctx context.Context, c *client, organization, id string) (changed, error) {
			got, err := c.Sites.GetSite(ctx, &sitev1.GetSiteRequest{OrganizationId: organization, SiteId: id})
			if err != nil {
				return nil, err
			}
			name := got.GetSite().GetName()
			if err := p.confirm(yes, "This stops the site "+plain(name)+" and puts it into the trash", name); err != nil {
				return nil, err
			}
			return c.Sites.DeleteSite(ctx, &sitev1.DeleteSiteRequest{OrganizationId: organization, SiteId: id})
		}), &yes)
}

// finishSite follows a change if that is wanted and shows the site as it is then.
func (p *program) finishSite(ctx context.Context, c *client, answer changed) error {
	site, task := answer.GetSite(), answer.GetTask()
	wait := p.wait && task != nil // without one its host has nothing to learn
	if wait {
		var err error
		if task, err = p.follow(ctx, c, task, false); err != nil {
			return err
		}
		got, err := c.Sites.GetSite(ctx, &sitev1.GetSiteRequest{OrganizationId: site.GetOrganizationId(), SiteId: site.GetId()})
		if err != nil {
			return err
		}
		site = got.GetSite()
	}
	shown := &sitev1.CreateSiteResponse{Site: site, Task: task} // what every change answers
	if err := p.print(shown, nil, func() error { return p.printSite(ctx, c, site) }); err != nil {
		return err
	}
	if wait {
		return failure(task)
	}
	return nil
}

func (p *program) siteList() *cobra.Command {
	var trashed bool
	var tags []string
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List an organization's sites",
		Example: `  chom site list
  chom site list --tag shop --tag blog`,
		Args: exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			all, err := c.allSites(ctx, organization, trashed, tags...)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, s := range all {
				rows = append(rows, []string{s.GetName(), s.GetType(), short(s.GetState(), "STATE_"), s.GetUrl(), s.GetProblem(), s.GetId()})
			}
			return p.print(list(all), column(rows, 0), func() error {
				return printTable(p.out, []string{"NAME", "TYPE", "STATE", "URL", "PROBLEM", "ID"}, rows)
			})
		}),
	}
	cmd.Flags().BoolVar(&trashed, "trashed", false, "also list sites in the trash")
	cmd.Flags().StringSliceVar(&tags, "tag", nil, "only sites with this tag; several times for those with one of them")
	return p.organizationFlag(cmd)
}

func (p *program) siteShow() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:               "show NAME",
		Short:             "Show a site: what is wanted and what was measured",
		Args:              exactly(1),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.siteID(ctx, c, args[0])
			if err != nil {
				return err
			}
			got, err := c.Sites.GetSite(ctx, &sitev1.GetSiteRequest{OrganizationId: organization, SiteId: id})
			if err != nil {
				return err
			}
			return p.print(got.GetSite(), []string{got.GetSite().GetName()}, func() error { return p.printSite(ctx, c, got.GetSite()) })
		}),
	})
}

func (p *program) siteCheck() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:   "check NAME",
		Short: "Look now whether a site's names lead to it and have certificates",
		Long: `Check asks the DNS for the names that are not served with a certificate, and looks at the certificates of the others from
outside. That happens by itself too: every few seconds at first, later every few minutes.`,
		Args:              exactly(1),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.siteID(ctx, c, args[0])
			if err != nil {
				return err
			}
			checked, err := c.Sites.CheckSite(ctx, &sitev1.CheckSiteRequest{OrganizationId: organization, SiteId: id})
			if err != nil {
				return err
			}
			return p.print(checked.GetSite(), []string{checked.GetSite().GetName()}, func() error { return printNames(p.out, checked.GetSite().GetNames()) })
		}),
	})
}

func (p *program) siteLogin() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:               "login NAME",
		Short:             "Print a link that signs you in to the site's administration",
		Long:              "Login has the site's host arm a link that works once and for 60 seconds. It is written down who asked for it.",
		Args:              exactly(1),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.siteID(ctx, c, args[0])
			if err != nil {
				return err
			}
			made, err := c.Sites.CreateSiteLogin(ctx, &sitev1.CreateSiteLoginRequest{OrganizationId: organization, SiteId: id})
			if err != nil {
				return err
			}
			return p.print(made, []string{made.GetUrl()}, func() error {
				p.note("Works once, for %d s:", int(time.Until(made.GetExpireTime().AsTime()).Seconds()))
				_, err := fmt.Fprintln(p.out, plain(made.GetUrl()))
				return err
			})
		}),
	})
}

func (p *program) printSite(ctx context.Context, c *client, s *sitev1.Site) error {
	backups, err := c.Backups.GetBackupStatus(ctx, &backupv1.GetBackupStatusRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
	if err != nil {
		return err
	}
	size, err := c.siteSize(ctx, s)
	if err != nil {
		return err
	}
	o := s.GetObserved()
	var settings []string
	for key, value := range s.GetSettings() {
		settings = append(settings, key+"="+value)
	}
	slices.Sort(settings)
	measured := ""
	if o != nil {
		measured = fmt.Sprintf("generation %d, HTTP status %d", o.GetGeneration(), o.GetHttpStatus())
		if o.GetPageTitle() != "" {
			measured += fmt.Sprintf(", title %q", o.GetPageTitle())
		}
		measured += ", at " + at(o.GetObserveTime())
	}
	https := ""
	if age := s.GetHttps().GetHstsMaxAgeSeconds(); age > 0 {
		https = "HSTS for " + (time.Duration(age) * time.Second).String()
	}
	if s.GetHttps().GetKeepHttp() {
		https = strings.TrimPrefix(https+", HTTP is kept", ", ")
	}
	if err := printFields(p.out, [][2]string{
		{"name", s.GetName()},
		{"id", s.GetId()},
		{"state", short(s.GetState(), "STATE_")},
		{"problem", s.GetProblem()},
		{"url", s.GetUrl()},
		{"type", s.GetType()},
		{"domains", strings.Join(s.GetDomains(), " ")},
		{"redirects", strings.Join(s.GetRedirectDomains(), " ")},
		{"not held yet", strings.Join(s.GetPendingDomains(), " ")},
		{"preview", s.GetPreviewDomain()},
		{"https", https},
		{"settings", strings.Join(settings, " ")},
		{"tags", strings.Join(s.GetTags(), " ")},
		{"backup policy", policyText(backups.GetStatus())},
		{"backups", backupsText(backups.GetStatus())},
		{"server", s.GetServerId()},
		{"handle", s.GetHandle()},
		{"generation", fmt.Sprint(s.GetGeneration())},
		{"measured", measured},
		{"release", o.GetAppVersion()},
		{"php", o.GetPhpVersion()},
		{"disk", size.text()},
		{"created", at(s.GetCreateTime())},
		{"trashed", at(s.GetDeleteTime())},
		{"removed for good", at(s.GetPurgeTime())},
		{"newest task", s.GetLastTaskId()},
	}); err != nil || len(s.GetNames()) == 0 {
		return err
	}
	if _, err := fmt.Fprintln(p.out); err != nil {
		return err
	}
	return printNames(p.out, s.GetNames())
}

// printNames writes a table of names, and then what keeps each and the records to set, ready to be pasted.
func printNames(w io.Writer, names []*sitev1.SiteName) error {
	var rows [][]string
	for _, n := range names {
		until := ""
		if n.GetCertificate().GetValid() {
			until = at(n.GetCertificate().GetNotAfter())
		}
		rows = append(rows, []string{n.GetName(), short(n.GetRole(), "NAME_ROLE_"), short(n.GetState(), "NAME_STATE_"), until})
	}
	if err := printTable(w, []string{"NAME", "ROLE", "STATE", "UNTIL"}, rows); err != nil {
		return err
	}
	for _, n := range names {
		problem := n.GetProblem()
		if met := n.GetOutside().GetProblem(); badOutside(n.GetOutside()) && met != problem {
			problem = strings.TrimPrefix(problem+"; "+met+", as it was met at "+at(n.GetOutsideTime()), "; ")
		}
		if problem == "" && len(n.GetRecords()) == 0 {
			continue
		}
		if _, err := fmt.Fprintf(w, "\n%s: %s\n", plain(n.GetName()), plain(problem)); err != nil {
			return err
		}
		for _, r := range n.GetRecords() {
			do := "set"
			if r.GetRemove() {
				do = "remove"
			}
			if _, err := fmt.Fprintf(w, "  %s  %s  %s  %s\n", do, plain(r.GetName()), plain(r.GetType()), plain(r.GetValue())); err != nil {
				return err
			}
		}
	}
	return nil
}
