package task

import (
	"errors"
	"fmt"
	"time"

	"chom.dev/agent/fail"
	"chom.dev/agent/journal"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	skew = 5 * time.Minute // two clocks may differ by this much before an order counts as expired
)

// Offer takes an order: it is accepted, refused, or, when it is a repeat,
// answered from the journal. That is decided in the transaction that writes it
// down, so orders that come together share a sync. Offer waits for none of it.
func (e *Engine) Offer(signed *orderv1.SignedOrder) {
	e.mu.Lock()
	signers := e.signers
	e.mu.Unlock()
	o, err := contract.VerifyOrder(signers, signed)
	if err != nil {
		e.turnAway(signed, err.Error())
		return
	}
	key, err := orderKey(o)
	if err != nil {
		e.cfg.Log.Warn("order names no task", "err", err)
		return
	}
	e.mu.Lock()
	e.undecided[key]++
	e.mu.Unlock()
	var d decision
	e.cfg.Journal.Submit(journal.Entry{
		Decide: func(v journal.View, entry *journal.Entry) (err error) {
			d, err = e.accept(v, entry, key, o, signed)
			return err
		},
		Then: func(err error) { e.decided(key, signed, d, err) },
	})
}

// decision is what became of a trusted order. At most one of its fields is set:
// an order that is refused ends in the journal, and nothing follows.
type decision struct {
	attempt *attempt         // it is accepted: to be started
	repeat  *journal.Attempt // it was decided on before: to be told again
	away    string           // why it is turned away
}

// decided does what follows from a decision once it is synced.
func (e *Engine) decided(key journal.Key, signed *orderv1.SignedOrder, d decision, err error) {
	if d.attempt != nil && err == nil {
		fail.Point("task/" + d.attempt.rec.Kind + "/accept/after")
		e.trace("accepted", d.attempt.order, "", "")
		e.admit(d.attempt)
	}
	e.mu.Lock()
	if d.attempt != nil {
		e.promised--
	}
	if e.undecided[key]--; e.undecided[key] == 0 {
		delete(e.undecided, key)
	}
	e.allDecided.Broadcast()
	e.mu.Unlock()
	switch {
	case err != nil:
		e.cfg.Log.Error("order was not taken", "task", key.Task, "attempt", key.Number, "err", err)
		if journal.Full(err) {
			e.turnAway(signed, "the journal's disk is full")
		}
	case d.repeat != nil:
		e.repeat(*d.repeat)
	case d.away != "":
		e.turnAway(signed, d.away)
	}
}

func orderKey(o *orderv1.Order) (journal.Key, error) {
	task, err := contract.ParseTaskID(o.TaskId)
	if err != nil {
		return journal.Key{}, err
	}
	if o.Attempt == 0 {
		return journal.Key{}, errors.New("attempt is 0")
	}
	return journal.Key{Task: task, Number: o.Attempt}, nil
}

// turnAway refuses without a word in the journal: what nobody trustworthy
// signed must not fill it, and a full one can't be written.
func (e *Engine) turnAway(signed *orderv1.SignedOrder, reason string) {
	o := new(orderv1.Order)
	if err := proto.Unmarshal(signed.GetOrder(), o); err != nil {
		e.cfg.Log.Warn("order is unreadable", "err", err)
		return
	}
	key, err := orderKey(o)
	if err != nil {
		e.cfg.Log.Warn("order names no task", "err", err)
		return
	}
	e.cfg.Log.Warn("order is turned away", "task", key.Task, "attempt", key.Number, "reason", reason)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.live[key] != nil || e.undecided[key] > 0 {
		return // a forged twin must not end the true one
	}
	if len(e.answered) >= maxRemembered {
		clear(e.answered)
	}
	e.answered[key] = true
	e.answer(event(key, o.Fence, 1, &linkv1.TaskEvent{Event: &linkv1.TaskEvent_Result{Result: refusal(reason)}}))
}

func refusal(reason string) *orderv1.Result {
	return &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_REFUSED, Error: Line(reason, maxText)}
}

// event fills in what all events have.
func event(key journal.Key, fence, sequence uint64, ev *linkv1.TaskEvent) *linkv1.TaskEvent {
	ev.TaskId, ev.Attempt, ev.Fence, ev.Sequence = key.Task.String(), key.Number, fence, sequence
	ev.Time = timestamppb.Now()
	return ev
}

// accept decides on a trusted order, and completes the entry that writes the
// decision down.
func (e *Engine) accept(v journal.View, entry *journal.Entry, key journal.Key, o *orderv1.Order, signed *orderv1.SignedOrder) (decision, error) {
	rec, known, err := v.Attempt(key)
	if err != nil {
		return decision{}, err
	}
	if known {
		return decision{repeat: &rec}, nil
	}
	e.mu.Lock()
	turnedAway, canceled, full := e.answered[key], e.canceled[key], len(e.live)+e.promised >= maxLive
	signers := e.signers
	e.mu.Unlock()
	switch {
	case turnedAway:
		return decision{away: "the order was refused before"}, nil // what was told once stays true
	case o.ServerId != e.cfg.Server.String():
		return decision{away: "the order is for another server"}, nil
	case full:
		return decision{}, fmt.Errorf("%d orders wait already; it will be offered again", maxLive)
	}
	h, err := look(v, o)
	if err != nil {
		return decision{}, err
	}
	order, site, reason := decide(o, h, e.cfg.Clock.Time())
	order.Signers = signers
	var plan Plan
	if reason == "" {
		plan, reason = e.plan(order)
	}
	rec = journal.Attempt{
		Task: key.Task, Number: key.Number, Kind: string(order.Kind),
		Organization: order.Organization, Site: order.Site.ID,
		Fence: o.Fence, Accepted: time.Now().UTC(), StepCount: uint32(len(plan.Steps)),
	}
	if reason == "" && canceled {
		return decision{}, endUnstarted(entry, rec, &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_CANCELED, Error: errCanceled.Error()})
	}
	if reason != "" {
		e.cfg.Log.Warn("order is refused", "task", key.Task, "attempt", key.Number, "reason", reason)
		rec.StepCount = 0
		return decision{}, endUnstarted(entry, rec, refusal(reason))
	}

	fail.Point("task/" + rec.Kind + "/accept/before")
	entry.Attempt, entry.Order, entry.Site = &rec, signed, site
	entry.Events = []*linkv1.TaskEvent{event(key, o.Fence, 1, &linkv1.TaskEvent{Event: &linkv1.TaskEvent_Accepted{
		Accepted: &linkv1.Accepted{StepCount: rec.StepCount},
	}})}
	e.mu.Lock()
	e.promised++
	e.mu.Unlock()
	return decision{attempt: newAttempt(order, plan, rec, 1)}, nil
}

// endUnstarted makes the entry that of an attempt that never starts.
func endUnstarted(entry *journal.Entry, rec journal.Attempt, result *orderv1.Result) error {
	text, err := proto.Marshal(result)
	if err != nil {
		return err
	}
	rec.Ended, rec.Result, rec.ResultSequence = rec.Accepted, text, 1
	entry.Attempt = &rec
	entry.Events = []*linkv1.TaskEvent{event(rec.Key(), rec.Fence, 1, &linkv1.TaskEvent{Event: &linkv1.TaskEvent_Result{Result: result}})}
	return nil
}

// plan asks the handler, who may not bring the agent down.
func (e *Engine) plan(o Order) (plan Plan, reason string) {
	h := e.cfg.Handlers[o.Kind]
	if h == nil {
		return Plan{}, fmt.Sprintf("this agent can't do %s", o.Kind)
	}
	defer func() {
		if p := recover(); p != nil {
			e.cfg.Log.Error("handler panicked while planning", "kind", o.Kind, "panic", p)
			plan, reason = Plan{}, fmt.Sprintf("internal error while planning: %v", p)
		}
	}()
	plan, err := h.Plan(o)
	if err == nil {
		err = plan.check()
	}
	if err != nil {
		return Plan{}, err.Error()
	}
	return plan, ""
}

// held is what the agent knows that bears on an order.
type held struct {
	fence   uint64 // highest accepted for the site, or for the server itself
	site    journal.Site
	known   bool   // site is in the registry
	nextUID uint32 // for a new one
	taken   bool   // its handle is another site's
}

// look finds it.
func look(v journal.View, o *orderv1.Order) (held, error) {
	c, err := v.Counters()
	if err != nil {
		return held{}, err
	}
	h := held{fence: c.ServerFence, nextUID: c.NextUID}
	if o.SiteId == "" {
		return h, nil
	}
	// Of an id that is none nothing is found; decide says what is wrong with it.
	id, _ := contract.ParseSiteID(o.SiteId)
	if h.site, h.known, err = v.Site(id); err != nil {
		return held{}, err
	}
	h.fence = h.site.Fence
	if h.known {
		return h, nil
	}
	sites, err := v.Sites()
	if err != nil {
		return held{}, err
	}
	for _, s := range sites {
		h.taken = h.taken || s.Handle.String() == o.GetConvergeSite().GetDesired().GetHandle()
	}
	return h, nil
}

// decide says why an order must not be done, or what it is and how it changes
// the site's record. It is pure.
func decide(o *orderv1.Order, h held, now time.Time) (order Order, site *journal.Site, reason string) {
	order = Order{Attempt: o.Attempt, Fence: o.Fence, Timeout: o.Timeout.AsDuration(), Message: o}
	no := func(format string, args ...any) (Order, *journal.Site, string) {
		return order, nil, fmt.Sprintf(format, args...)
	}
	var err error
	if order.Task, err = contract.ParseTaskID(o.TaskId); err != nil {
		return no("%v", err)
	}
	if o.Schema != contract.OrderSchema {
		return no("schema %d is unknown to this agent", o.Schema)
	}
	switch o.Kind.(type) {
	case *orderv1.Order_Noop:
		order.Kind = Noop
	case *orderv1.Order_PrepareServer:
		order.Kind = PrepareServer
	case *orderv1.Order_ConvergeSite:
		order.Kind = ConvergeSite
	case *orderv1.Order_SiteLogin:
		order.Kind = SiteLogin
	case *orderv1.Order_BackupSite:
		order.Kind = BackupSite
	case *orderv1.Order_RestoreSite:
		order.Kind = RestoreSite
	case *orderv1.Order_UndoRestore:
		order.Kind = UndoRestore
	case *orderv1.Order_DrillSite:
		order.Kind = DrillSite
	default:
		return no("the kind of order is unknown to this agent")
	}
	switch {
	case o.ExpireTime.CheckValid() != nil || now.After(o.ExpireTime.AsTime().Add(skew)):
		return no("the order expired at %s, and it is %s", o.ExpireTime.AsTime().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case o.Timeout.CheckValid() != nil || order.Timeout <= 0 || order.Timeout > 24*time.Hour:
		return no("timeout must be above zero and at most a day")
	case o.Fence <= h.fence || o.Fence > maxFence:
		return no("fence %d is not above %d, the highest accepted here", o.Fence, h.fence)
	}
	if o.SiteId == "" {
		if order.Kind != Noop && order.Kind != PrepareServer {
			return no("the order names no site")
		}
		return order, nil, ""
	}
	if order.Kind == PrepareServer {
		return no("the order is about the server, and names a site")
	}
	return decideSite(o, h, order)
}

// maxFence is the limit of chom.order.v1.Order.fence.
const maxFence = 1 << 62

// handleOf is the handle in an order that is about a site as the host knows it.
func handleOf(o *orderv1.Order) (handle string, named bool) {
	switch k := o.GetKind().(type) {
	case *orderv1.Order_SiteLogin:
		return k.SiteLogin.GetHandle(), true
	case *orderv1.Order_BackupSite:
		return k.BackupSite.GetHandle(), true
	case *orderv1.Order_RestoreSite:
		return k.RestoreSite.GetHandle(), true
	case *orderv1.Order_UndoRestore:
		return k.UndoRestore.GetHandle(), true
	case *orderv1.Order_DrillSite:
		return k.DrillSite.GetHandle(), true
	}
	return "", false
}

// decideSite compares an order about a site with the registry.
func decideSite(o *orderv1.Order, h held, order Order) (Order, *journal.Site, string) {
	no := func(format string, args ...any) (Order, *journal.Site, string) {
		return order, nil, fmt.Sprintf(format, args...)
	}
	id, err := contract.ParseSiteID(o.SiteId)
	if err != nil {
		return no("%v", err)
	}
	order.Site.ID = id
	org, err := contract.ParseOrganizationID(o.OrganizationId)
	if err != nil {
		return no("%v", err)
	}
	order.Organization = org
	site := h.site
	switch {
	case h.known && site.Organization != org:
		return no("the site belongs to another organization on this host")
	case !h.known && order.Kind != ConvergeSite:
		return no("the site is unknown on this host")
	}
	if handle, named := handleOf(o); named && handle != site.Handle.String() {
		return no("the site has another handle on this host")
	}
	if order.Kind == ConvergeSite {
		desired := o.GetConvergeSite().GetDesired()
		handle, err := contract.ParseHandle(desired.GetHandle())
		switch {
		case err != nil:
			return no("%v", err)
		case desired.SiteId != o.SiteId || desired.OrganizationId != o.OrganizationId:
			return no("the desired state is of another site or organization than the order")
		case h.known && handle != site.Handle:
			return no("the site has another handle on this host")
		case !h.known && h.taken:
			return no("the handle belongs to another site on this host")
		case !h.known && h.nextUID > journal.LastUID:
			return no("this host has no unix ids left")
		case desired.Generation == 0 || desired.Generation < site.Generation:
			return no("generation %d is older than %d, which this host has", desired.Generation, site.Generation)
		}
		text, err := proto.Marshal(desired)
		if err != nil {
			return no("%v", err)
		}
		if !h.known {
			site = journal.Site{ID: id, Organization: org, Handle: handle, UID: h.nextUID}
		}
		site.Generation, site.Desired = desired.Generation, text
	}
	site.Fence = o.Fence
	if order.Site, err = fromRecord(site); err != nil {
		return no("%v", err)
	}
	return order, &site, ""
}

// fromRecord is what handlers see of a site's record.
func fromRecord(rec journal.Site) (Site, error) {
	s := Site{ID: rec.ID, Organization: rec.Organization, Handle: rec.Handle, UID: rec.UID, Converged: rec.Converged}
	if rec.Desired != nil {
		s.Desired = new(sitev1.DesiredState)
		if err := proto.Unmarshal(rec.Desired, s.Desired); err != nil {
			return Site{}, fmt.Errorf("%w: desired state of site %s: %w", journal.ErrCorrupt, rec.ID, err)
		}
	}
	if rec.Observed != nil {
		s.Observed = new(sitev1.ObservedState)
		if err := proto.Unmarshal(rec.Observed, s.Observed); err != nil {
			return Site{}, fmt.Errorf("%w: observed state of site %s: %w", journal.ErrCorrupt, rec.ID, err)
		}
	}
	return s, nil
}
