package notify

import "time"

// The templates. Each has a file of text, which also holds the subject, and one of HTML in templates/.
const (
	TemplateVerifyEmail          = "verify_email"
	TemplateSignUpExists         = "sign_up_exists"
	TemplateResetPassword        = "reset_password"
	TemplatePasswordChanged      = "password_changed"
	TemplateConfirmEmailChange   = "confirm_email_change"
	TemplateEmailChanged         = "email_changed"
	TemplateSecondFactorChanged  = "second_factor_changed"
	TemplateNewDevice            = "new_device"
	TemplateInvitation           = "invitation"
	TemplateImpersonationStarted = "impersonation_started"
	TemplateOrganizationClosing  = "organization_closing"
	TemplateWebhookFailing       = "webhook_failing"
	TemplateCertificateEnding    = "certificate_ending"
	TemplateCertificateEnded     = "certificate_ended"
	TemplateCertificateLost      = "certificate_lost"
	TemplateBackupFailing        = "backup_failing"
	TemplateBackupOverdue        = "backup_overdue"
	TemplateBackupDamaged        = "backup_damaged"
	TemplateBackupWell           = "backup_well"
	TemplateBackupQuotaNear      = "backup_quota_near"
	TemplateBackupQuotaFull      = "backup_quota_full"
	TemplateDrillFailed          = "drill_failed"
	TemplateTest                 = "test"
)

// Kinds of values.
type kind uint8

const (
	line   kind = iota // a line of text; people may have written it
	link               // a URL under the public one
	moment             // a time, time.RFC3339
)

// meanings are of all values that templates show. A name means the same in each of them.
var meanings = map[string]struct {
	kind   kind
	sample string // for previews
}{
	"advice":       {line, "The names of the site show what keeps it."}, // what to do
	"address":      {line, "203.0.113.7"},                               // network address that something was done from
	"change":       {line, "An authenticator app was added."},
	"close_time":   {moment, "2026-12-25T14:03:00Z"}, // after which nothing is kept
	"closer":       {line, "bert@example.com"},
	"device":       {line, "Firefox on Linux"},
	"domain":       {line, "www.acme.example"}, // name that a site answers to
	"email":        {line, "anna.new@example.com"},
	"expire_time":  {moment, "2026-12-02T14:03:00Z"}, // until when it can be used, or lasts
	"inviter":      {line, "bert@example.com"},
	"link":         {link, "/a/page?token=0123456789"}, // where the mail asks one to go
	"member":       {line, "anna@example.com"},
	"operator":     {line, "help@chom.example.com"},
	"organization": {line, "acme"},
	"problem":      {line, "no answer in time"},
	"quota":        {line, "50 GiB"}, // that may be used
	"reason":       {line, "Ticket 4711: the shop shows an empty page."},
	"receiver":     {line, "hooks.acme.example"}, // host of a webhook
	"role":         {line, "member"},
	"site":         {line, "shop"},
	"time":         {moment, "2026-11-25T14:03:00Z"}, // when it was done, or since when
	"used":         {line, "49.9 GiB"},               // of a quota
}

const (
	// fromStrangers bounds mails that somebody can cause who only knows the address: enough to click "send again" until it
	// arrived, too few to fill a mailbox.
	fromStrangers = 5
	// fromMembers bounds mails about what somebody did who had to sign in for it. They warn: rather too many than one too few.
	fromMembers = 20
	// ofSites bounds mails about what happens to sites by itself: a CA that is down for weeks meets many of them at once, and
	// each mail is sent once.
	ofSites = 200
	// maxLife is after how long a mail server that does not take a mail is given up.
	maxLife = 24 * time.Hour
)

// mailKind is what this package knows of a template.
type mailKind struct {
	values  []string
	perHour int           // mails to one address
	life    time.Duration // how long it is tried: what comes later than its link lives only confuses
}

var catalog = map[string]mailKind{
	TemplateVerifyEmail:          {[]string{"link"}, fromStrangers, maxLife},
	TemplateSignUpExists:         {[]string{"link"}, fromStrangers, maxLife},
	TemplateResetPassword:        {[]string{"link"}, fromStrangers, 30 * time.Minute},
	TemplatePasswordChanged:      {[]string{"time", "address", "link"}, fromMembers, maxLife},
	TemplateConfirmEmailChange:   {[]string{"link"}, fromStrangers, maxLife},
	TemplateEmailChanged:         {[]string{"email", "time", "address"}, fromMembers, maxLife},
	TemplateSecondFactorChanged:  {[]string{"change", "time", "address", "link"}, fromMembers, maxLife},
	TemplateNewDevice:            {[]string{"device", "time", "address", "link"}, fromMembers, maxLife},
	TemplateInvitation:           {[]string{"organization", "inviter", "role", "link", "expire_time"}, fromStrangers, maxLife},
	TemplateImpersonationStarted: {[]string{"organization", "operator", "member", "reason", "expire_time"}, fromMembers, maxLife},
	TemplateOrganizationClosing:  {[]string{"organization", "closer", "close_time", "link"}, fromMembers, maxLife},
	TemplateWebhookFailing:       {[]string{"organization", "receiver", "problem", "time", "link"}, fromMembers, maxLife},
	TemplateCertificateEnding:    {[]string{"organization", "site", "domain", "time", "problem", "advice", "link"}, ofSites, maxLife},
	TemplateCertificateEnded:     {[]string{"organization", "site", "domain", "time", "problem", "advice", "link"}, ofSites, maxLife},
	TemplateCertificateLost:      {[]string{"organization", "site", "domain", "time", "problem", "advice", "link"}, ofSites, maxLife},
	TemplateBackupFailing:        {[]string{"organization", "site", "time", "problem", "advice", "link"}, ofSites, maxLife},
	TemplateBackupOverdue:        {[]string{"organization", "site", "time", "problem", "advice", "link"}, ofSites, maxLife},
	TemplateBackupDamaged:        {[]string{"organization", "site", "time", "problem", "advice", "link"}, ofSites, maxLife},
	TemplateBackupWell:           {[]string{"organization", "site", "time", "link"}, ofSites, maxLife},
	TemplateBackupQuotaNear:      {[]string{"organization", "used", "quota", "link"}, ofSites, maxLife},
	TemplateBackupQuotaFull:      {[]string{"organization", "used", "quota", "link"}, ofSites, maxLife},
	TemplateDrillFailed:          {[]string{"organization", "site", "time", "problem", "link"}, ofSites, maxLife},
	TemplateTest:                 {nil, fromMembers, time.Hour},
}
