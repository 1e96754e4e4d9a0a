package site

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/proto/contract"
)

// order is what the site's agent is asked: all that is wanted, never a difference, of names those that are served.
func (s *Site) order() *orderv1.ConvergeSite {
	desired := s.desired()
	desired.Domains = nil
	for _, name := range s.Served {
		desired.Domains = append(desired.Domains, name.String())
	}
	return &orderv1.ConvergeSite{Desired: desired}
}

// desired is the wanted state as the sites table holds it.
func (s *Site) desired() *sitev1.DesiredState {
	w := s.Wanted
	d := &sitev1.DesiredState{
		SiteId:         s.ID.String(),
		OrganizationId: s.Organization.String(),
		Handle:         s.Handle.String(),
		Generation:     w.Generation,
		Phase:          phaseProto[w.onHost()],
		Type:           w.Type.String(),
		Settings:       w.Settings,
		Limits: &sitev1.Limits{
			CpuPercent:  w.Limits.CPUPercent,
			MemoryBytes: w.Limits.MemoryBytes,
			Tasks:       w.Limits.Tasks,
			PhpWorkers:  w.Limits.PHPWorkers,
		},
	}
	for _, domain := range w.Domains {
		d.Domains = append(d.Domains, domain.String())
	}
	if w.Archive != nil {
		d.Archive = &sitev1.Archive{Version: w.Archive.Version, Url: w.Archive.URL, Sha256: w.Archive.SHA256[:]}
	}
	return d
}

// parseDesired reads the wanted state back from the sites table.
func parseDesired(b []byte) (Wanted, error) {
	var d sitev1.DesiredState
	if err := proto.Unmarshal(b, &d); err != nil {
		return Wanted{}, fmt.Errorf("read desired state: %w", err)
	}
	w := Wanted{
		Generation: d.GetGeneration(),
		Phase:      phases[d.GetPhase()],
		Settings:   d.GetSettings(),
		Limits: Limits{
			CPUPercent:  d.GetLimits().GetCpuPercent(),
			MemoryBytes: d.GetLimits().GetMemoryBytes(),
			Tasks:       d.GetLimits().GetTasks(),
			PHPWorkers:  d.GetLimits().GetPhpWorkers(),
		},
	}
	var err error
	if w.Type, err = contract.ParseSiteType(d.GetType()); err != nil {
		return Wanted{}, fmt.Errorf("read desired state: %w", err)
	}
	if w.Domains, err = parseDomains(d.GetDomains()); err != nil {
		return Wanted{}, fmt.Errorf("read desired state: %w", err)
	}
	if a := d.GetArchive(); a != nil {
		w.Archive = &Archive{Version: a.GetVersion(), URL: a.GetUrl()}
		if copy(w.Archive.SHA256[:], a.GetSha256()) != len(w.Archive.SHA256) {
			return Wanted{}, errors.New("read desired state: checksum is too short")
		}
	}
	return w, nil
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
	if o.GetObserveTime() != nil {
		seen.At = o.GetObserveTime().AsTime()
	}
	return seen
}

// Message is the measurement as the API shows it.
func (o *Observed) Message(site contract.SiteID) *sitev1.ObservedState {
	m := &sitev1.ObservedState{
		SiteId:     site.String(),
		Generation: o.Generation,
		Phase:      phaseProto[o.Phase],
		HttpStatus: o.HTTPStatus,
		PageTitle:  o.PageTitle,
		AppVersion: o.AppVersion,
		PhpVersion: o.PHPVersion,
		Problem:    o.Problem,
	}
	if !o.At.IsZero() {
		m.ObserveTime = timestamppb.New(o.At)
	}
	return m
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
