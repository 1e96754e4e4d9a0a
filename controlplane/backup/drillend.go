package backup

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/notify"
	"chom.dev/controlplane/task"
	"chom.dev/controlplane/webhook"
)

// DrillEnded judges, in the transaction that ends the task, what a host found. Package task calls it (task.OnEnd).
func (b *Backups) DrillEnded(ctx context.Context, tx *db.Tx, t task.Task, result *orderv1.Result) error {
	d, err := scanDrill(tx.QueryRow(ctx, drillColumns+`
		WHERE organization_id = $1
		  AND site_id = $2
		  AND task_id = $3
		  AND state = 'running'`+tx.ForUpdate(), t.Organization, t.Site, t.ID))
	if errors.Is(err, sql.ErrNoRows) {
		return nil // it left with its site
	}
	if err != nil {
		return fmt.Errorf("end of task %s: %w", t.ID, err)
	}
	report := result.GetDrill()
	if report.GetDrillId() == d.ID.String() {
		d.Evidence = report.GetEvidence()
	}
	if t.State == task.Succeeded {
		d.Problem, d.Note, err = b.judge(ctx, tx, d, report)
	} else {
		d.Problem = undone(t)
	}
	d.State, d.EndedAt = DrillPassed, t.Ended
	if d.Problem != "" {
		d.State = DrillFailed
	}
	if err := errors.Join(err, b.endDrill(ctx, tx, d, t.State != task.Canceled)); err != nil {
		return fmt.Errorf("end of task %s: %w", t.ID, err)
	}
	return nil
}

// saysNothing is added where it is known that a drill failed for another reason than the backup.
const saysNothing = "; that says nothing of the backup"

// undone says why a host has not done a drill.
func undone(t task.Task) string {
	switch t.State {
	case task.Canceled:
		return "it was stopped before its end" + saysNothing
	case task.TimedOut:
		return wordsOf(t) + saysNothing
	}
	return "the host could not do it: " + wordsOf(t)
}

// judge says why a drill that a host has done proves nothing; empty where it proves the backup, and what is worth to know then.
func (b *Backups) judge(ctx context.Context, tx *db.Tx, d Drill, report *backupv1.DrillReport) (problem, note string, err error) {
	of, err := load(ctx, tx, d.Organization, d.Site, d.Backup)
	if errors.Is(err, ErrNotFound) {
		return "the backup was removed before what came back could be compared" + saysNothing, "", nil
	}
	if err != nil {
		return "", "", err
	}
	_, m, err := b.verified(of)
	if err != nil {
		b.log.ErrorContext(ctx, "the manifest of a backup is not what was signed", "backup", of.ID, "site", of.Site, "err", err)
		return ErrForged.Error(), "", nil
	}
	problem, note = verdict(m, d.ID.String(), d.paths, report)
	return problem, note, nil
}

// verdict says in what that which came back is not what was recorded; empty where it is in nothing that counts, and then what is worth
// to know. Paths are what the host was to ask for after the home page. The report is a host's word: what it does not say it has not
// found.
func verdict(m *backupv1.Manifest, drill string, paths []string, report *backupv1.DrillReport) (problem, note string) {
	e := report.GetEvidence()
	switch {
	case e == nil:
		return "the host did not say what it found", ""
	case report.GetDrillId() != drill:
		return "the host reported another drill than the one that was asked for", ""
	case e.GetStartTime() == nil || e.GetEndTime() == nil || e.GetEndTime().AsTime().Before(e.GetStartTime().AsTime()):
		return "the host did not say when it began and ended", ""
	}
	recorded := m.GetContents()
	all := slices.Concat(otherFiles(recorded, e), otherDatabase(recorded, e), otherHome(recorded.GetPageTitle(), e.GetPages()), otherPages(paths, e.GetPages()))
	if more := len(all) - differencesShown; more > 0 {
		all = append(all[:differencesShown], fmt.Sprintf("and %d more", more))
	}
	if len(all) == 0 {
		note = strings.Join(slices.Concat(otherTitle(recorded.GetPageTitle(), e.GetPages()), unkept(recorded)), "; ")
	}
	return strings.Join(all, "; "), note
}

// differencesShown bounds what is told: the first ones show where to look.
const differencesShown = 5

func otherFiles(recorded *backupv1.Contents, e *backupv1.Evidence) (all []string) {
	if e.GetFileCount() != recorded.GetFileCount() {
		all = append(all, fmt.Sprintf("%d files, directories and links came back, and %d were recorded", e.GetFileCount(), recorded.GetFileCount()))
	}
	if e.GetFileBytes() != recorded.GetFileBytes() {
		all = append(all, fmt.Sprintf("the files have %d bytes, and %d were recorded", e.GetFileBytes(), recorded.GetFileBytes()))
	}
	if len(all) == 0 && !bytes.Equal(e.GetListingSha256(), recorded.GetListingSha256()) {
		all = append(all, "the files have other names, modes, sizes or times than were recorded")
	}
	if links := recorded.GetLinksSha256(); len(links) > 0 && len(e.GetLinksSha256()) > 0 && !bytes.Equal(e.GetLinksSha256(), links) {
		all = append(all, "links lead elsewhere than was recorded")
	}
	return all
}

// unkept tells of links for whose targets nobody vouches.
func unkept(recorded *backupv1.Contents) []string {
	if recorded.GetUnkeptLinkCount() == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d links have targets that are not UTF-8, and may come back as other ones: %s", recorded.GetUnkeptLinkCount(),
		strings.Join(recorded.GetUnkeptLinks(), ", "))}
}

func otherDatabase(recorded *backupv1.Contents, e *backupv1.Evidence) (all []string) {
	if recorded.GetDatabaseSnapshot() != "" && !bytes.Equal(e.GetDumpSha256(), recorded.GetDumpSha256()) {
		all = append(all, "the dump of the database is not the one that was recorded")
	}
	found := map[string]uint64{}
	for _, table := range e.GetTables() {
		if _, twice := found[table.GetName()]; twice {
			all = append(all, fmt.Sprintf("the host counted table %s twice", table.GetName()))
		}
		found[table.GetName()] = table.GetRows()
	}
	for _, table := range recorded.GetTables() {
		rows, ok := found[table.GetName()]
		delete(found, table.GetName())
		switch {
		case !ok:
			all = append(all, fmt.Sprintf("table %s is missing", table.GetName()))
		case rows != table.GetRows():
			all = append(all, fmt.Sprintf("table %s has %d rows, and %d were recorded", table.GetName(), rows, table.GetRows()))
		}
	}
	for _, table := range e.GetTables() {
		if _, more := found[table.GetName()]; more {
			all = append(all, fmt.Sprintf("table %s was not recorded", table.GetName()))
		}
	}
	return all
}

// otherHome looks at the home page. Where it showed no title when the backup was made, it need not have been a page of the site: any
// answer is one then, but that the server is broken. Where it did, it has one again: which, otherTitle tells.
func otherHome(title string, pages []*backupv1.Page) []string {
	if len(pages) == 0 || pages[0].GetPath() != "/" {
		return []string{"the host did not ask for the home page"}
	}
	home := pages[0]
	status := home.GetHttpStatus()
	switch {
	case status == 0:
		return []string{"the home page was not answered: " + cmp.Or(home.GetProblem(), "no reason was given")}
	case title != "" && status != http.StatusOK, status >= http.StatusInternalServerError:
		return []string{fmt.Sprintf("the home page was answered with status %d", status)}
	case home.GetProblem() != "":
		return []string{"the home page could not be read: " + home.GetProblem()}
	case title != "" && (home.GetTitle() == "" || home.GetBodyBytes() == 0):
		return []string{fmt.Sprintf("the home page has no title, and %q was recorded", title)}
	}
	return nil
}

// otherTitle tells of a home page that is called otherwise than when the backup was made. Where all files and rows are those that were
// recorded, the site has called it so: there is a date in it, or what is new today. A drill that failed for that would for ever.
func otherTitle(title string, pages []*backupv1.Page) []string {
	if now := pages[0].GetTitle(); title != "" && now != title {
		return []string{fmt.Sprintf("the home page has the title %q, and %q was recorded", now, title)}
	}
	return nil
}

// otherPages looks at what was asked for after the home page: nothing is recorded of it, and it has to be there.
func otherPages(paths []string, pages []*backupv1.Page) (all []string) {
	for _, path := range paths {
		i := slices.IndexFunc(pages, func(p *backupv1.Page) bool { return p.GetPath() == path })
		if i < 0 {
			all = append(all, fmt.Sprintf("the host did not ask for %s: its agent may be too old for it", path))
			continue
		}
		switch p := pages[i]; {
		case p.GetHttpStatus() == 0:
			all = append(all, fmt.Sprintf("%s was not answered: %s", path, cmp.Or(p.GetProblem(), "no reason was given")))
		case p.GetHttpStatus() >= http.StatusBadRequest:
			all = append(all, fmt.Sprintf("%s was answered with status %d", path, p.GetHttpStatus()))
		case p.GetProblem() != "":
			all = append(all, fmt.Sprintf("%s could not be read: %s", path, p.GetProblem()))
		}
	}
	return all
}

// endDrill writes what a drill came to, and tells of it. One that was stopped on purpose is nobody's alarm.
func (b *Backups) endDrill(ctx context.Context, tx *db.Tx, d Drill, tell bool) error {
	if d.State == DrillFailed && tell {
		if err := b.alarm(ctx, tx, &d); err != nil {
			return err
		}
	}
	var evidence []byte
	if d.Evidence != nil {
		var err error
		if evidence, err = proto.Marshal(d.Evidence); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, `
		UPDATE drills
		SET state = $3,
		    problem = $4,
		    mailed = $5,
		    evidence = $6,
		    ended_at = $7,
		    note = $8
		WHERE organization_id = $1
		  AND id = $2`, d.Organization, d.ID, string(d.State), d.Problem, d.mailed, evidence, db.Micros(d.EndedAt), d.Note); err != nil {
		return fmt.Errorf("save drill %s: %w", d.ID, err)
	}
	action, event, result := "backup.drill_pass", webhook.DrillPassed, string(d.State)
	if d.State == DrillFailed {
		action, event = "backup.drill_fail", webhook.DrillFailed
	}
	if !tell {
		result = "stopped"
	}
	tx.AfterCommit(func() { b.metrics.ended.WithLabelValues(result).Inc() })
	if err := audit.Record(ctx, tx, audit.Event{
		Organization: d.Organization.String(), Action: action, Object: d.Backup.String(), Detail: strings.TrimSuffix(fmt.Sprintf("drill %s: %s", d.ID, d.Problem), ": "),
	}); err != nil || !tell {
		return err
	}
	return publish(ctx, tx, d.Organization, d.Site, event, "drill", d.ID.String())
}

// tellAgain is how often the same failure is mailed while no drill of the site passes: drills are tried again each day.
const tellAgain = 7 * 24 * time.Hour

// alarming says whether the failure of a drill is mailed; told is the site's newest one that was, since one passed.
func alarming(d Drill, told *Drill) bool {
	return told == nil || told.Problem != d.Problem || d.EndedAt.Sub(told.EndedAt).Abs() >= tellAgain
}

// alarm mails those who can do something about it.
func (b *Backups) alarm(ctx context.Context, tx *db.Tx, d *Drill) error {
	told, err := toldOf(ctx, tx, *d)
	if err != nil || !alarming(*d, told) {
		return err
	}
	d.mailed = true
	name, to, err := b.config.Organizations.Contacts(ctx, tx, d.Organization)
	if err != nil {
		return err
	}
	site, err := nameOf(ctx, tx, d.Organization, d.Site)
	if err != nil {
		return err
	}
	for _, address := range to {
		if err := b.config.Mails.Enqueue(ctx, tx, notify.Mail{
			To: address, Template: notify.TemplateDrillFailed, Organization: d.Organization.String(),
			Values: map[string]string{
				"organization": name, "site": site, "time": d.EndedAt.Format(time.RFC3339), "problem": d.Problem,
				"link": b.config.PublicURL + "/organizations/" + d.Organization.String() + "/sites/" + d.Site.String(),
			},
		}); err != nil {
			return err
		}
	}
	return nil
}

// toldOf is the newest drill of a site whose failure was mailed since one passed; nil where there is none.
func toldOf(ctx context.Context, tx *db.Tx, d Drill) (*Drill, error) {
	told, err := scanDrill(tx.QueryRow(ctx, drillColumns+`
		WHERE organization_id = $1
		  AND site_id = $2
		  AND mailed
		  AND id > COALESCE((SELECT MAX(p.id)
		                     FROM drills p
		                     WHERE p.organization_id = $1
		                       AND p.site_id = $2
		                       AND p.state = 'passed'), '')
		ORDER BY id DESC
		LIMIT 1`, d.Organization, d.Site))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look what was mailed: %w", err)
	}
	return &told, nil
}
