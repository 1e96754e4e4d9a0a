package main

import (
	"context"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	"github.com/spf13/cobra"
)

func (p *program) accountCommand() *cobra.Command {
	cmd := group("account", "Your account: address, password, how you sign in", nil,
		p.accountSignUp(), p.accountVerify(), p.accountForgotPassword(), p.accountResetPassword(), p.accountConfirmEmail())
	cmd.Long = `What changes how a person signs in is done by the person, signed in with a browser: a token will not do. On the
control plane's pages you change your password and your e-mail address, and let a program in that waits for you
with a code (/device).

A password that is lost is replaced here too: chom account forgot-password EMAIL mails a link, and
chom account reset-password takes it.`
	return cmd
}

// strangers is a command that needs no sign-in, only to know where the control plane is.
func (p *program) strangers(cmd *cobra.Command, do func(ctx context.Context, c *client, args []string) error) *cobra.Command {
	var door target
	cmd.Flags().StringVar(&door.URL, "url", "", "URL of the control plane (default that of the context)")
	cmd.Flags().StringVar(&door.CA, "ca", "", "file with a certificate authority to trust besides the system's, with --url")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if door.URL == "" {
			remembered, err := p.target()
			if err != nil {
				return err
			}
			door = target{URL: remembered.URL, CA: remembered.CA}
		}
		if warning := plaintextWarning(door.URL); warning != "" {
			p.say("warning: %s", warning)
		}
		c, err := newClient(door, p.note)
		if err != nil {
			return err
		}
		return do(cmd.Context(), c, args)
	}
	return cmd
}

func (p *program) accountSignUp() *cobra.Command {
	return p.strangers(&cobra.Command{
		Use:   "sign-up EMAIL",
		Short: "Ask for an account; a mail with a link follows",
		Long: `Sign-up reads a password of 10 to 128 characters from standard input, or asks for it on a terminal. The answer is
always the same: a mail says how to go on, or that there is an account already. Give its link to
chom account verify.`,
		Example: `  chom account sign-up anna@acme.example --url https://chom.example.com`,
		Args:    exactly(1),
	}, func(ctx context.Context, c *client, args []string) error {
		password, err := p.choosePassword()
		if err != nil {
			return err
		}
		asked, err := c.Accounts.SignUp(ctx, &accountv1.SignUpRequest{Email: args[0], Password: password})
		if err != nil {
			return err
		}
		return p.done(asked, "If %s may sign up, a mail is on its way. Go on with its link: chom account verify", args[0])
	})
}

func (p *program) accountVerify() *cobra.Command {
	return p.strangers(&cobra.Command{
		Use:   "verify",
		Short: "Finish a sign-up with the link of the mail and the password",
		Long: `Verify reads the link of the mail and the password that was given with the sign-up: a line for each from standard
input, or asked for on a terminal.`,
		Example: `  chom account verify --url https://chom.example.com`,
		Args:    exactly(0),
	}, func(ctx context.Context, c *client, _ []string) error {
		link, err := p.secret("Link of the mail: ")
		if err != nil {
			return err
		}
		password, err := p.secret("Password: ")
		if err != nil {
			return err
		}
		made, err := c.Accounts.VerifyEmail(ctx, &accountv1.VerifyEmailRequest{Token: linkSecret(link), Password: password})
		if err != nil {
			return err
		}
		return p.done(made, "You have an account now.")
	})
}

func (p *program) accountForgotPassword() *cobra.Command {
	return p.strangers(&cobra.Command{
		Use:   "forgot-password EMAIL",
		Short: "Mail a link that sets a new password, to whoever has an account",
		Long:  "The link works once, for 30 minutes. Give it to chom account reset-password.",
		Args:  exactly(1),
	}, func(ctx context.Context, c *client, args []string) error {
		asked, err := c.Accounts.RequestPasswordReset(ctx, &accountv1.RequestPasswordResetRequest{Email: args[0]})
		if err != nil {
			return err
		}
		return p.done(asked, "If %s has an account, a mail is on its way. Go on with its link: chom account reset-password", args[0])
	})
}

func (p *program) accountResetPassword() *cobra.Command {
	return p.strangers(&cobra.Command{
		Use:   "reset-password",
		Short: "Set a new password with the link of the mail",
		Long: `Reset-password reads the link of the mail and the new password, 10 to 128 characters: a line for each from standard
input, or asked for on a terminal. All browsers where you are signed in are signed out; tokens go on.`,
		Args: exactly(0),
	}, func(ctx context.Context, c *client, _ []string) error {
		link, err := p.secret("Link of the mail: ")
		if err != nil {
			return err
		}
		password, err := p.choosePassword()
		if err != nil {
			return err
		}
		reset, err := c.Accounts.ResetPassword(ctx, &accountv1.ResetPasswordRequest{Token: linkSecret(link), Password: password})
		if err != nil {
			return err
		}
		return p.done(reset, "The password is changed.")
	})
}

func (p *program) accountConfirmEmail() *cobra.Command {
	return p.strangers(&cobra.Command{
		Use:   "confirm-email",
		Short: "Make a new e-mail address that of your account, with the link of the mail",
		Long: `Confirm-email reads the link of the mail from standard input, or asks for it on a terminal. The change itself is
asked for where you are signed in with a browser.`,
		Args: exactly(0),
	}, func(ctx context.Context, c *client, _ []string) error {
		link, err := p.secret("Link of the mail: ")
		if err != nil {
			return err
		}
		confirmed, err := c.Accounts.ConfirmEmailChange(ctx, &accountv1.ConfirmEmailChangeRequest{Token: linkSecret(link)})
		if err != nil {
			return err
		}
		return p.done(confirmed, "The new address is that of your account now.")
	})
}
