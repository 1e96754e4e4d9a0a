package organization_test

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/bearer"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/organization"
	"chom.dev/proto/contract"
)

// tokenOf is the secret part of a link.
func tokenOf(link string) string { _, token, _ := strings.Cut(link, "#"); return token }

func TestInvitations(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		id, people := w.acme(t)
		admin := people[organization.Admin]
		site := w.site(t, id)
		invite := func(t *testing.T, email string, role organization.Role) (organization.Invitation, string) {
			t.Helper()
			made, link, err := w.Invite(ctx, admin, id, organization.Offer{Email: email, Role: role})
			must(t, err)
			return made, tokenOf(link)
		}
		refused := func(t *testing.T, who account.Caller, token string, want error) {
			t.Helper()
			if _, _, err := w.Accept(ctx, who, token); !errors.Is(err, want) {
				t.Errorf("accept: got %v, want %v", err, want)
			}
			if w.role(t, id, who) != "" {
				t.Errorf("%s is %s now", who.Email, w.role(t, id, who))
			}
		}

		t.Run("are mailed with a link that the database does not know", func(t *testing.T) {
			made, link, err := w.Invite(ctx, admin, id, organization.Offer{Email: "Anna@Example.com", Role: organization.Viewer})
			must(t, err)
			if !regexp.MustCompile(`^https://chom\.example\.com/invitation#chominv_[0-9A-Za-z]{49}$`).MatchString(link) {
				t.Errorf("the link is %s", link)
			}
			mails := w.mailed("anna@example.com", "invitation")
			if len(mails) != 1 || mails[0].Values["link"] != link || mails[0].Values["organization"] != "acme" ||
				mails[0].Values["inviter"] != admin.Email || mails[0].Organization != id.String() {
				t.Errorf("mailed %+v", mails)
			}
			if life := time.Until(made.ExpiresAt); life > 7*24*time.Hour || life < 7*24*time.Hour-time.Minute {
				t.Errorf("it lives for %s", life)
			}
			if n := w.count(t, `SELECT COUNT(*) FROM invitations WHERE secret_hash = $1`, []byte(tokenOf(link))); n != 0 {
				t.Error("its text is stored")
			}
			if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE detail LIKE '%chominv_%'`); n != 0 {
				t.Error("its text is in the audit")
			}
			listed, _, err := w.Organizations.Invitations(ctx, id, 0, "")
			if err != nil || len(listed) != 1 || strings.Contains(fmt.Sprintf("%+v", listed), tokenOf(link)) {
				t.Errorf("listed %+v, %v", listed, err)
			}
			found, name, err := w.Invitation(ctx, tokenOf(link))
			if err != nil || found.ID != made.ID || found.Email != "anna@example.com" || name != "acme" {
				t.Errorf("it is for %+v, %q, %v", found, name, err)
			}
		})
		t.Run("work once, with their bounds", func(t *testing.T) {
			ben := w.person(t, "ben@example.com")
			_, link, err := w.Invite(ctx, admin, id, organization.Offer{Email: "BEN@example.com", Role: organization.Member, Sites: []string{site}})
			must(t, err)
			var wg sync.WaitGroup
			var mu sync.Mutex
			joined := 0
			for range 20 {
				wg.Go(func() {
					_, member, err := w.Accept(ctx, ben, tokenOf(link))
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						joined++
						if member.Role != organization.Member || fmt.Sprint(member.Sites) != fmt.Sprint([]string{site}) {
							t.Errorf("became %+v", member)
						}
					} else if !errors.Is(err, organization.ErrInvitation) {
						t.Errorf("a second time: %v", err)
					}
				})
			}
			wg.Wait()
			if joined != 1 {
				t.Errorf("accepted %d times", joined)
			}
			must(t, w.RemoveMember(ctx, admin, id, ben.ID))
			refused(t, ben, tokenOf(link), organization.ErrInvitation)
		})
		t.Run("are for one verified address", func(t *testing.T) {
			_, token := invite(t, "carl@example.com", organization.Viewer)
			refused(t, w.person(t, "other@example.com"), token, organization.ErrForSomebodyElse)
			carl := w.person(t, "carl@example.com")
			w.exec(t, `UPDATE accounts SET verified_at = NULL WHERE id = $1`, carl.ID)
			refused(t, carl, token, organization.ErrForSomebodyElse)
			w.exec(t, `UPDATE accounts SET verified_at = 1, email = 'renamed@example.com' WHERE id = $1`, carl.ID)
			refused(t, carl, token, organization.ErrForSomebodyElse) // whatever the session still believes
		})
		t.Run("end after seven days", func(t *testing.T) {
			made, token := invite(t, "dora@example.com", organization.Viewer)
			w.exec(t, `UPDATE invitations SET expires_at = $2 WHERE id = $1`, made.ID, db.Micros(time.Now()))
			refused(t, w.person(t, "dora@example.com"), token, organization.ErrInvitation)
			if _, _, err := w.Invitation(ctx, token); !errors.Is(err, organization.ErrInvitation) {
				t.Errorf("is shown: %v", err)
			}
		})
		t.Run("end when they are withdrawn or replaced", func(t *testing.T) {
			emil := w.person(t, "emil@example.com")
			_, former := invite(t, "emil@example.com", organization.Viewer)
			made, token := invite(t, "emil@example.com", organization.Viewer)
			refused(t, emil, former, organization.ErrInvitation)
			must(t, w.RevokeInvitation(ctx, admin, id, made.ID))
			refused(t, emil, token, organization.ErrInvitation)
			if err := w.RevokeInvitation(ctx, admin, id, made.ID); !errors.Is(err, organization.ErrInvitation) {
				t.Errorf("withdrawn twice: %v", err)
			}
		})
		t.Run("end with the inviter's right to give that role", func(t *testing.T) {
			fred := w.person(t, "fred@example.com")
			for name, loses := range map[string]string{
				"became a member": `UPDATE members SET role = 'member' WHERE organization_id = $1 AND account_id = $2`,
				"left":            `DELETE FROM members WHERE organization_id = $1 AND account_id = $2`,
			} {
				inviter := w.join(t, id, "inviter@acme.example", organization.Admin)
				_, link, err := w.Invite(ctx, inviter, id, organization.Offer{Email: "fred@example.com", Role: organization.Viewer})
				must(t, err)
				w.exec(t, loses, id, inviter.ID)
				t.Log("the inviter", name)
				refused(t, fred, tokenOf(link), organization.ErrInvitation)
				if _, _, err := w.Invitation(ctx, tokenOf(link)); !errors.Is(err, organization.ErrInvitation) {
					t.Errorf("is shown: %v", err)
				}
				w.exec(t, `DELETE FROM members WHERE organization_id = $1 AND account_id = $2`, id, inviter.ID)
			}
			owner := w.join(t, id, "inviter@acme.example", organization.Owner)
			_, link, err := w.Invite(ctx, owner, id, organization.Offer{Email: "fred@example.com", Role: organization.Owner})
			must(t, err)
			w.exec(t, `UPDATE members SET role = 'admin' WHERE account_id = $1`, owner.ID)
			refused(t, fred, tokenOf(link), organization.ErrInvitation) // an admin makes no owner
			operator := w.operator(t)
			_, link, err = w.Invite(ctx, operator, id, organization.Offer{Email: "fred@example.com", Role: organization.Viewer})
			must(t, err)
			w.exec(t, `UPDATE accounts SET operator = FALSE WHERE id = $1`, operator.ID)
			refused(t, fred, tokenOf(link), organization.ErrInvitation)
		})
		t.Run("offer at most what the inviter has", func(t *testing.T) {
			for _, role := range ladder {
				for _, offered := range ladder {
					_, _, err := w.Invite(ctx, people[role], id, organization.Offer{Email: "gina@example.com", Role: offered})
					if may := role.AtLeast(organization.Admin) && role.AtLeast(offered); may && err != nil || denied(err) == may {
						t.Errorf("%s offers %s: %v", role, offered, err)
					}
				}
			}
		})
		t.Run("to an owner are withdrawn by owners only", func(t *testing.T) {
			made, _, err := w.Invite(ctx, people[organization.Owner], id, organization.Offer{Email: "hans@example.com", Role: organization.Owner})
			must(t, err)
			if err := w.RevokeInvitation(ctx, admin, id, made.ID); !denied(err) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("are refused to who is a member, for foreign sites, and with bounds on admins", func(t *testing.T) {
			if _, _, err := w.Invite(ctx, admin, id, organization.Offer{Email: "Viewer@acme.example", Role: organization.Member}); !errors.Is(err, organization.ErrIsMember) {
				t.Errorf("a member: %v", err)
			}
			if _, _, err := w.Invite(ctx, admin, id, organization.Offer{Email: "ida@example.com", Role: organization.Member, Sites: []string{contract.NewSiteID().String()}}); fault.KindOf(err) != fault.KindNotFound {
				t.Errorf("a foreign site: %v", err)
			}
			if _, _, err := w.Invite(ctx, admin, id, organization.Offer{Email: "ida@example.com", Role: organization.Admin, Sites: []string{site}}); fault.KindOf(err) != fault.KindInvalid {
				t.Errorf("a bound admin: %v", err)
			}
			ida := w.person(t, "ida@example.com")
			_, token := invite(t, "ida@example.com", organization.Member)
			w.join(t, id, "ida@example.com", organization.Viewer)
			if _, _, err := w.Accept(ctx, ida, token); !errors.Is(err, organization.ErrIsMember) || w.role(t, id, ida) != organization.Viewer {
				t.Errorf("who became one meanwhile: %v", err)
			}
		})
		t.Run("bound to a site that is gone reach nothing", func(t *testing.T) {
			lost := w.site(t, id)
			_, link, err := w.Invite(ctx, admin, id, organization.Offer{Email: "jan@example.com", Role: organization.Member, Sites: []string{lost}})
			must(t, err)
			w.exec(t, `DELETE FROM sites WHERE id = $1`, lost)
			if _, member, err := w.Accept(ctx, w.person(t, "jan@example.com"), tokenOf(link)); err != nil || member.Sites == nil || len(member.Sites) > 0 {
				t.Errorf("reaches %v, %v", member.Sites, err)
			}
		})
		t.Run("open the door of a closed platform", func(t *testing.T) {
			invited := func() (yes bool) {
				t.Helper()
				must(t, db.InTx(ctx, d, func(tx *db.Tx) (err error) {
					yes, err = organization.Invited(ctx, tx, "Lena@example.com")
					return err
				}))
				return yes
			}
			if invited() {
				t.Error("to whom nobody has invited")
			}
			inviter := w.join(t, id, "friend@acme.example", organization.Admin)
			_, _, err := w.Invite(ctx, inviter, id, organization.Offer{Email: "lena@example.com", Role: organization.Viewer})
			must(t, err)
			if !invited() {
				t.Error("not to whom somebody has invited")
			}
			w.exec(t, `UPDATE members SET role = 'member' WHERE account_id = $1`, inviter.ID)
			if invited() {
				t.Error("to whose inviter could not invite any more")
			}
			w.exec(t, `UPDATE members SET role = 'admin' WHERE account_id = $1`, inviter.ID)
			w.exec(t, `UPDATE invitations SET expires_at = 1 WHERE email = 'lena@example.com'`)
			if invited() {
				t.Error("after the invitation was over")
			}
		})
		t.Run("of no known text are all alike", func(t *testing.T) {
			unknown, _ := bearer.New("chominv_")
			for name, token := range map[string]string{"unknown": unknown, "malformed": "chominv_" + strings.Repeat("A", 49), "nothing": ""} {
				if _, _, err := w.Invitation(ctx, token); !errors.Is(err, organization.ErrInvitation) {
					t.Errorf("%s: %v", name, err)
				}
				refused(t, w.person(t, "kim@example.com"), token, organization.ErrInvitation)
			}
		})
	})
}

// TestBounds fills an organization from two processes at once.
func TestBounds(t *testing.T) {
	t.Parallel()
	for engine, open := range map[string]func(testing.TB) string{"sqlite": dbtest.SQLiteURL, "postgres": dbtest.PostgresURL} {
		t.Run(engine, func(t *testing.T) {
			ctx := t.Context()
			url := open(t)
			d := dbtest.Open(t, url)
			here := newWorld(t, d)
			worlds := []*world{here, here}
			if engine == "postgres" {
				worlds[1] = newWorld(t, dbtest.Open(t, url))
			}
			id, people := here.acme(t)
			owner := people[organization.Owner]
			crowd := func(n int, do func(w *world, i int) error, want error) (won int) {
				var wg sync.WaitGroup
				var mu sync.Mutex
				for i := range n {
					wg.Go(func() {
						err := do(worlds[i%2], i)
						mu.Lock()
						defer mu.Unlock()
						if err == nil {
							won++
						} else if !errors.Is(err, want) {
							t.Errorf("got %v", err)
						}
					})
				}
				wg.Wait()
				return won
			}
			t.Run("at most 100 invitations are open", func(t *testing.T) {
				for i := range 95 {
					_, _, err := here.Invite(ctx, owner, id, organization.Offer{Email: fmt.Sprintf("p%d@example.com", i), Role: organization.Viewer})
					must(t, err)
				}
				won := crowd(50, func(w *world, i int) error {
					_, _, err := w.Invite(ctx, owner, id, organization.Offer{Email: fmt.Sprintf("crowd%d@example.com", i), Role: organization.Viewer})
					return err
				}, organization.ErrInvitations)
				if n := here.count(t, `SELECT COUNT(*) FROM invitations`); won != 5 || n != 100 {
					t.Errorf("%d of a crowd, %d in all", won, n)
				}
				if _, _, err := here.Invite(ctx, owner, id, organization.Offer{Email: "p0@example.com", Role: organization.Viewer}); err != nil {
					t.Errorf("one that replaces another: %v", err)
				}
			})
			t.Run("at most 500 are members", func(t *testing.T) {
				here.exec(t, `DELETE FROM invitations`)
				here.crowd(t, id, 491)
				var callers []account.Caller
				var tokens []string
				for i := range 50 {
					email := fmt.Sprintf("crowd%d@example.com", i)
					_, link, err := here.Invite(ctx, owner, id, organization.Offer{Email: email, Role: organization.Viewer})
					must(t, err)
					callers, tokens = append(callers, here.person(t, email)), append(tokens, tokenOf(link))
				}
				won := crowd(50, func(w *world, i int) error { _, _, err := w.Accept(ctx, callers[i], tokens[i]); return err }, organization.ErrFull)
				if n := here.count(t, `SELECT COUNT(*) FROM members WHERE organization_id = $1`, id); won != 5 || n != 500 {
					t.Errorf("%d of a crowd, %d in all", won, n)
				}
			})
			t.Run("at most 20 are one person's", func(t *testing.T) {
				founder := here.person(t, "founder@example.com")
				won := crowd(50, func(w *world, i int) error { _, err := w.Found(ctx, founder, fmt.Sprintf("org%d", i)); return err }, organization.ErrTooMany)
				if n := here.count(t, `SELECT COUNT(*) FROM members WHERE account_id = $1`, founder.ID); won != 20 || n != 20 {
					t.Errorf("%d of a crowd, %d in all", won, n)
				}
			})
		})
	}
}
