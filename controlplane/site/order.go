package site

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/proto/contract"
)

// order is what the site's agent is asked: all that is wanted, never a difference, of names those that are served.
func (s *Site) order() *orderv1.ConvergeSite {
	desired := s.desired()
	desired.Domains, desired.RedirectDomains = texts(s.Served), nil
	// Browsers remember where a permanent redirect led to, which must not be a name that only stands in for the primary one.
	if s.Served[0] == s.Wanted.Domains[0] {
		desired.RedirectDomains = texts(among(s.Wanted.Redirects, s.Served))
	}
	return &orderv1.ConvergeSite{Desired: desired}
}

// desired is the wanted state as the sites table holds it.
func (s *Site) desired() *sitev1.DesiredState {
	w := s.Wanted
	d := &sitev1.DesiredState{
		SiteId:          s.ID.String(),
		OrganizationId:  s.Organization.String(),
		Handle:          s.Handle.String(),
		Generation:      w.Generation,
		Phase:           phaseProto[w.onHost()],
		Type:            w.Type.String(),
		Domains:         texts(w.Domains),
		RedirectDomains: texts(w.Redirects),
		Https:           s.certificates.message(w.HTTPS),
		Settings:        w.Settings,
		Limits: &sitev1.Limits{
			CpuPercent:  w.Limits.CPUPercent,
			MemoryBytes: w.Limits.MemoryBytes,
			Tasks:       w.Limits.Tasks,
			PhpWorkers:  w.Limits.PHPWorkers,
		},
	}
	if w.Schedule.Interval > 0 {
		d.BackupSchedule = &sitev1.BackupSchedule{Interval: durationpb.New(w.Schedule.Interval), Offset: durationpb.New(w.Schedule.Offset)}
	}
	if w.Archive != nil {
		d.Archive = &sitev1.Archive{Version: w.Archive.Version, Url: w.Archive.URL, Sha256: w.Archive.SHA256[:]}
	}
	return d
}

// parseDesired reads the wanted state back from the sites table, and which certificates go with it.
func parseDesired(b []byte) (w Wanted, c certificates, err error) {
	var d sitev1.DesiredState
	if err := proto.Unmarshal(b, &d); err != nil {
		return w, c, fmt.Errorf("read desired state: %w", err)
	}
	w = Wanted{
		Generation: d.GetGeneration(),
		Phase:      phases[d.GetPhase()],
		HTTPS:      HTTPS{HSTS: d.GetHttps().GetHstsMaxAgeSeconds(), KeepHTTP: d.GetHttps().GetKeepHttp()},
		Settings:   d.GetSettings(),
		Limits: Limits{
			CPUPercent:  d.GetLimits().GetCpuPercent(),
			MemoryBytes: d.GetLimits().GetMemoryBytes(),
			Tasks:       d.GetLimits().GetTasks(),
			PHPWorkers:  d.GetLimits().GetPhpWorkers(),
		},
		Schedule: Schedule{Interval: d.GetBackupSchedule().GetInterval().AsDuration(), Offset: d.GetBackupSchedule().GetOffset().AsDuration()},
	}
	if w.Type, err = contract.ParseSiteType(d.GetType()); err != nil {
		return w, c, fmt.Errorf("read desired state: %w", err)
	}
	if w.Domains, err = names(d.GetDomains()); err != nil {
		return w, c, fmt.Errorf("read desired state: %w", err)
	}
	if w.Redirects, err = names(d.GetRedirectDomains()); err != nil {
		return w, c, fmt.Errorf("read desired state: %w", err)
	}
	if c, err = certificatesFrom(d.GetHttps()); err != nil {
		return w, c, fmt.Errorf("read desired state: %w", err)
	}
	if a := d.GetArchive(); a != nil {
		w.Archive = &Archive{Version: a.GetVersion(), URL: a.GetUrl()}
		if copy(w.Archive.SHA256[:], a.GetSha256()) != len(w.Archive.SHA256) {
			return w, c, errors.New("read desired state: checksum is too short")
		}
	}
	return w, c, nil
}

// message says it to a host.
func (c certificates) message(h HTTPS) *sitev1.Https {
	m := &sitev1.Https{PlatformDomains: texts(c.platform), HstsMaxAgeSeconds: h.HSTS, KeepHttp: h.KeepHTTP}
	for _, a := range c.acme {
		m.Acme = append(m.Acme, &sitev1.AcmeDomain{Name: a.name.String(), Challenge: challengeProto[a.challenge]})
	}
	for _, u := range c.uploaded {
		m.Uploaded = append(m.Uploaded, &sitev1.UploadedCertificate{Id: u.ID, Sha256: u.SHA256[:], Domains: texts(u.Names)})
	}
	return m
}

// certificatesFrom is the reverse of message; of a site that is older than HTTPS it has nothing to read.
func certificatesFrom(h *sitev1.Https) (c certificates, err error) {
	if c.platform, err = names(h.GetPlatformDomains()); err != nil {
		return c, err
	}
	for _, a := range h.GetAcme() {
		name, err := contract.ParsePattern(a.GetName())
		if err != nil {
			return c, err
		}
		c.acme = append(c.acme, acmeName{name, challenges[a.GetChallenge()]})
	}
	for _, u := range h.GetUploaded() {
		upload := Upload{ID: u.GetId()}
		if copy(upload.SHA256[:], u.GetSha256()) != len(upload.SHA256) {
			return c, errors.New("checksum of a certificate is too short")
		}
		if upload.Names, err = names(u.GetDomains()); err != nil {
			return c, err
		}
		c.uploaded = append(c.uploaded, upload)
	}
	return c, nil
}

func texts(names []contract.Domain) []string {
	var all []string
	for _, name := range names {
		all = append(all, name.String())
	}
	return all
}

// names reads what was written by texts.
func names(texts []string) ([]contract.Domain, error) {
	var all []contract.Domain
	for _, text := range texts {
		name, err := contract.ParsePattern(text)
		if err != nil {
			return nil, err
		}
		all = append(all, name)
	}
	return all, nil
}

// observedFrom takes in what an agent says. It was validated against its schema at the agents' door.
func observedFrom(o *sitev1.ObservedState) *Observed {
	seen := &Observed{
		Generation: o.GetGeneration(),
		Phase:      phases[o.GetPhase()],
		HTTPStatus: o.GetHttpStatus(),
		PageTitle:  o.GetPageTitle(),
		AppVersion: o.GetAppVersion(),
		PHPVersion: o.GetPhpVersion(),
		Problem:    o.GetProblem(),
	}
	seen.At = timeOf(o.GetObserveTime())
	for _, c := range o.GetCertificates() {
		seen.Certificates = append(seen.Certificates, CertificateFrom(c))
	}
	return seen
}

// CertificateFrom takes in what somebody measured of a certificate.
func CertificateFrom(c *sitev1.ObservedCertificate) Certificate {
	return Certificate{
		Name:      c.GetDomain(),
		Valid:     c.GetValid(),
		Source:    sources[c.GetSource()],
		Issuer:    c.GetIssuer(),
		SHA256:    c.GetSha256(),
		NotBefore: timeOf(c.GetNotBefore()),
		NotAfter:  timeOf(c.GetNotAfter()),
		Problem:   c.GetProblem(),
		NextTry:   timeOf(c.GetNextTryTime()),
		Failures:  c.GetFailures(),
	}
}

// Message is the measurement as the API and hosts say it.
func (c *Certificate) Message() *sitev1.ObservedCertificate {
	return &sitev1.ObservedCertificate{
		Domain:      c.Name,
		Valid:       c.Valid,
		Source:      sourceProto[c.Source],
		Issuer:      c.Issuer,
		Sha256:      c.SHA256,
		NotBefore:   stamp(c.NotBefore),
		NotAfter:    stamp(c.NotAfter),
		Problem:     c.Problem,
		NextTryTime: stamp(c.NextTry),
		Failures:    c.Failures,
	}
}

func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// Message is the measurement as the API shows it, but for the certificates.
func (o *Observed) Message(site contract.SiteID) *sitev1.ObservedState {
	return &sitev1.ObservedState{
		SiteId:      site.String(),
		Generation:  o.Generation,
		Phase:       phaseProto[o.Phase],
		HttpStatus:  o.HTTPStatus,
		PageTitle:   o.PageTitle,
		AppVersion:  o.AppVersion,
		PhpVersion:  o.PHPVersion,
		Problem:     o.Problem,
		ObserveTime: stamp(o.At),
	}
}

var phaseProto = map[Phase]sitev1.Phase{
	Active:    sitev1.Phase_PHASE_ACTIVE,
	Suspended: sitev1.Phase_PHASE_SUSPENDED,
	Trashed:   sitev1.Phase_PHASE_TRASHED,
	Absent:    sitev1.Phase_PHASE_ABSENT,
}

var phases = map[sitev1.Phase]Phase{
	sitev1.Phase_PHASE_ACTIVE:    Active,
	sitev1.Phase_PHASE_SUSPENDED: Suspended,
	sitev1.Phase_PHASE_TRASHED:   Trashed,
	sitev1.Phase_PHASE_ABSENT:    Absent,
}

var challengeProto = map[Challenge]sitev1.Challenge{
	HTTP01: sitev1.Challenge_CHALLENGE_HTTP_01,
	DNS01:  sitev1.Challenge_CHALLENGE_DNS_01,
}

var challenges = map[sitev1.Challenge]Challenge{
	sitev1.Challenge_CHALLENGE_HTTP_01: HTTP01,
	sitev1.Challenge_CHALLENGE_DNS_01:  DNS01,
}

var sourceProto = map[Source]sitev1.CertificateSource{
	NoCertificate: sitev1.CertificateSource_CERTIFICATE_SOURCE_UNSPECIFIED,
	ACME:          sitev1.CertificateSource_CERTIFICATE_SOURCE_ACME,
	Uploaded:      sitev1.CertificateSource_CERTIFICATE_SOURCE_UPLOADED,
	Platform:      sitev1.CertificateSource_CERTIFICATE_SOURCE_PLATFORM,
}

var sources = map[sitev1.CertificateSource]Source{
	sitev1.CertificateSource_CERTIFICATE_SOURCE_UNSPECIFIED: NoCertificate,
	sitev1.CertificateSource_CERTIFICATE_SOURCE_ACME:        ACME,
	sitev1.CertificateSource_CERTIFICATE_SOURCE_UPLOADED:    Uploaded,
	sitev1.CertificateSource_CERTIFICATE_SOURCE_PLATFORM:    Platform,
}
