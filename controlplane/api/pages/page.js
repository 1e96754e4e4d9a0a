// The pages that mails and terminals lead to: to sign up and in, to prove an address, to choose a new password, to let a program in,
// to accept an invitation. They use the public API alone. A secret comes behind the # of the address and is taken from there at once.
"use strict";

const secret = decodeURIComponent(location.hash.slice(1));
if (secret !== "") history.replaceState(null, "", location.pathname);

class Failure extends Error {
  constructor(code, message, stale = false) {
    super(message);
    this.code = code;
    this.stale = stale; // the session must first prove anew who sits there
  }
}

// call makes a call of the API, by Connect.
async function call(method, request = {}) {
  const answer = await fetch("/chom." + method, {
    method: "POST",
    headers: { "Content-Type": "application/json", "Connect-Protocol-Version": "1" },
    body: JSON.stringify(request),
  }).catch(() => {
    throw new Failure("unavailable", "The control plane does not answer. Try again in a moment.");
  });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const stale = (body.details ?? []).some(({ debug }) => debug?.reason === "STEP_UP_REQUIRED");
    throw new Failure(body.code ?? "unknown", body.message ?? `The control plane answered ${answer.status}.`, stale);
  }
  return body;
}

// make makes an element. Text is only ever text.
function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

const main = document.getElementById("main");

function show(title, ...children) {
  document.title = title + " · CHOM";
  main.replaceChildren(make("h1", {}, title), ...children);
  (main.querySelector("input") ?? main).focus();
}

const paragraph = (...children) => make("p", {}, ...children);
const link = (href, text) => make("a", { href }, text);

function field(label, properties) {
  return make("label", {}, label, make("input", { required: true, ...properties }));
}

const email = () => field("E-mail address", { name: "email", type: "email", autocomplete: "username", maxLength: 254 });
const password = () => field("Password", { name: "password", type: "password", autocomplete: "current-password", minLength: 10, maxLength: 128 });
const newPassword = () => field("New password, at least 10 characters", { name: "password", type: "password", autocomplete: "new-password", minLength: 10, maxLength: 128 });

// form sends what is filled in. While it does, its buttons wait; what goes wrong stands below.
function form(fields, label, send) {
  const wrong = make("p", { className: "wrong", role: "alert" });
  const button = make("button", {}, label);
  const element = make("form", {}, ...fields, wrong, button);
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    wrong.textContent = "";
    button.disabled = true;
    try {
      await send(Object.fromEntries(new FormData(element)));
    } catch (failure) {
      wrong.textContent = failure.message;
    }
    button.disabled = false;
  });
  return element;
}

// signedIn runs then with whoever is signed in, once somebody is.
async function signedIn(then, why) {
  let caller;
  try {
    caller = await call("account.v1.AccountService/GetCaller");
  } catch (failure) {
    if (failure.code !== "unauthenticated") throw failure;
    return signIn(() => signedIn(then, why), why);
  }
  return then(caller);
}

function signIn(then, why = "") {
  const factor = (token, factors) => {
    const parts = [];
    if (factors.totp || factors.recoveryCodes > 0) {
      parts.push(form(
        [field("6 digits of your authenticator app, or a recovery code", { name: "code", autocomplete: "one-time-code", autocapitalize: "none", spellcheck: false })], "Go on",
        async ({ code }) => {
          await call("account.v1.SessionService/LoginWithCode", { loginToken: token, code: code.trim() });
          await then();
        }));
    }
    if (factors.passkeys > 0) parts.push(form([], "Use a passkey", () => passkey(token).then(then)));
    show("Prove that it is you", ...parts);
  };
  show("Sign in", paragraph(why),
    form([email(), password()], "Sign in", async (filled) => {
      const answer = await call("account.v1.SessionService/Login", filled);
      if (answer.loginToken) factor(answer.loginToken, answer.factors ?? {});
      else await then();
    }),
    form([], "Use a passkey", () => passkey("").then(then)),
    make("p", { className: "quiet" }, link("/reset-password", "Forgot the password?"), " · ", link("/sign-up", "Sign up")));
  main.querySelectorAll("form")[1].querySelector("button").className = "other";
}

async function passkey(token) {
  const { challenge } = await call("account.v1.SessionService/BeginPasskeyLogin", token ? { loginToken: token } : {});
  const options = JSON.parse(challenge.options);
  const credential = await navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(options.publicKey ?? options) });
  await call("account.v1.SessionService/LoginWithPasskey", { challengeToken: challenge.token, credential: JSON.stringify(credential.toJSON()) });
}

// fresh repeats what needs a fresh proof after the person gave one.
async function fresh(act) {
  try {
    await act();
  } catch (failure) {
    if (!failure.stale) throw failure;
    show("Confirm that it is you", form(
      [field("Password, or 6 digits of your authenticator app", { name: "proof", type: "password", autocomplete: "current-password" })], "Confirm",
      async ({ proof }) => {
        await call("account.v1.SessionService/StepUp", /^[0-9]{6}$/.test(proof) ? { code: proof } : { password: proof });
        await act();
      }));
  }
}

const scopes = { SCOPE_READ: "read everything that you may see", SCOPE_DEPLOY: "read, and change sites", SCOPE_MANAGE: "do everything that you may do" };

async function askForProgram(code) {
  code = code.trim().toUpperCase();
  const asking = await call("account.v1.DeviceLoginService/GetDeviceLogin", { userCode: code });
  const rows = { Program: asking.name, Wants: "to " + (scopes[asking.scope] ?? asking.scope), From: asking.address, Software: asking.userAgent, Asked: new Date(asking.createTime).toLocaleString() };
  const list = make("dl");
  for (const [term, text] of Object.entries(rows)) list.append(make("dt", {}, term), make("dd", {}, text || "–"));
  const deny = form([], "No", async () => {
    await call("account.v1.DeviceLoginService/DenyDeviceLogin", { userCode: code });
    show("The program was refused", paragraph("If you did not ask, you need not do anything."));
  });
  deny.querySelector("button").className = "other";
  show("Let this program act for you?", paragraph(`Only if you see the code ${code} where you started it.`), list,
    form([], "Yes, let it", () => fresh(async () => {
      await call("account.v1.DeviceLoginService/ApproveDeviceLogin", { userCode: code });
      show("The program is signed in", paragraph("You can close this page and go back to it."));
    })), deny);
}

const when = (time) => new Date(time).toLocaleString();

async function sessions() {
  const found = (await call("account.v1.SessionService/ListSessions")).sessions;
  const list = found.map((session) => make("li", {},
    make("strong", {}, session.current ? "This browser" : session.userAgent || "A browser"), make("br"),
    `from ${session.address}, last used ${when(session.lastUsedTime)}`,
    ...(session.current ? [] : [form([], "End it", async () => {
      await call("account.v1.SessionService/RevokeSession", { sessionId: session.id });
      await sessions();
    })])));
  show("Where you are signed in", make("ul", {}, ...list), ...(found.length > 1 ? [form([], "End all others", async () => {
    await call("account.v1.SessionService/RevokeOtherSessions");
    await sessions();
  })] : []));
}

async function secondFactors(caller) {
  const again = () => signedIn(secondFactors);
  const { passkeys = [] } = await call("account.v1.SecondFactorService/ListPasskeys");
  const totp = caller.factors?.totp;
  show("Second factors",
    paragraph(totp ? "An authenticator app is set up." : "No authenticator app is set up."),
    totp
      ? form([], "Remove the app", () => fresh(async () => {
        await call("account.v1.SecondFactorService/DeleteTotp");
        await again();
      }))
      : form([], "Set up an authenticator app", () => fresh(enrol)),
    make("ul", {}, ...passkeys.map((key) => make("li", {}, `Passkey ${key.name}`, form([], "Remove", () => fresh(async () => {
      await call("account.v1.SecondFactorService/DeletePasskey", { passkeyId: key.id });
      await again();
    }))))),
    form([field("Name of a new passkey", { name: "name", maxLength: 63 })], "Add a passkey", ({ name }) => fresh(() => addPasskey(name))),
    ...(totp || passkeys.length > 0 ? [form([], "New recovery codes", () => fresh(async () => {
      keep((await call("account.v1.SecondFactorService/CreateRecoveryCodes")).recoveryCodes);
    }))] : []));
}

async function enrol() {
  const { seed, qr } = await call("account.v1.SecondFactorService/BeginTotp");
  show("Set up an authenticator app", paragraph("Scan this with the app, then type the 6 digits that it shows."),
    make("img", { src: "data:image/png;base64," + qr, alt: "QR code of the seed below", width: 200, height: 200 }),
    make("p", { className: "quiet" }, "Or type the seed: ", make("code", {}, seed)),
    form([field("6 digits", { name: "code", inputMode: "numeric", autocomplete: "one-time-code", pattern: "[0-9]{6}" })], "Confirm", async (filled) => {
      keep((await call("account.v1.SecondFactorService/ConfirmTotp", filled)).recoveryCodes);
    }));
}

async function addPasskey(name) {
  const { challenge } = await call("account.v1.SecondFactorService/BeginPasskey");
  const options = JSON.parse(challenge.options);
  const made = await navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(options.publicKey ?? options) });
  const { recoveryCodes } = await call("account.v1.SecondFactorService/CreatePasskey", { challengeToken: challenge.token, name, credential: JSON.stringify(made.toJSON()) });
  keep(recoveryCodes);
}

// keep shows recovery codes, this once.
function keep(codes = []) {
  if (codes.length === 0) return signedIn(secondFactors);
  return show("Keep these recovery codes", paragraph("Each works once in the place of a second factor that is lost. They are shown this once."),
    make("ul", {}, ...codes.map((code) => make("li", {}, make("code", {}, code)))), paragraph(link("/account/second-factors", "I have kept them")));
}

const pages = {
  "/login": () => signedIn((caller) => {
    const out = form([], "Sign out", async () => {
      await call("account.v1.SessionService/Logout");
      await pages["/login"]();
    });
    show("You are signed in", paragraph(`as ${caller.email}.`),
      paragraph(link("/account/second-factors", "Second factors"), " · ", link("/account/sessions", "Sessions")), out);
  }),
  "/account/sessions": () => signedIn(sessions),
  "/account/second-factors": () => signedIn(secondFactors),
  "/sign-up": () => show("Sign up", form([email(), newPassword()], "Sign up", async (filled) => {
    await call("account.v1.AccountService/SignUp", filled);
    show("Look into your mailbox", paragraph(`A mail with a link is on its way to ${filled.email}.`));
  }), make("p", { className: "quiet" }, link("/login", "Sign in instead"))),
  "/verify-email": () => show("Is this your address?", paragraph("Your password, once more, makes the account yours."), form([password()], "Go on", async (filled) => {
    await call("account.v1.AccountService/VerifyEmail", { token: secret, ...filled });
    await pages["/login"]();
  })),
  "/reset-password": () => secret === ""
    ? show("Forgot the password?", form([email()], "Send me a link", async (filled) => {
      await call("account.v1.AccountService/RequestPasswordReset", filled);
      show("Look into your mailbox", paragraph(`If ${filled.email} has an account, a mail with a link is on its way.`));
    }))
    : show("Choose a new password", form([newPassword()], "Set it", async (filled) => {
      await call("account.v1.AccountService/ResetPassword", { token: secret, ...filled });
      show("The password is set", paragraph("All your sessions have ended. ", link("/login", "Sign in"), "."));
    })),
  "/confirm-email": () => show("Confirm your new address", form([], "Confirm", async () => {
    await call("account.v1.AccountService/ConfirmEmailChange", { token: secret });
    show("The address is confirmed", paragraph("You sign in with it from now on."));
  })),
  "/device": () => signedIn(() => secret === ""
    ? show("Which program?", form([field("The code that it shows", { name: "code", autocomplete: "off", spellcheck: false })], "Go on", ({ code }) => askForProgram(code)))
    : askForProgram(secret), "A program asks to act for you."),
  "/invitation": async () => {
    const { invitation, organizationName } = await call("organization.v1.OrganizationService/GetInvitation", { token: secret });
    await signedIn(() => show(`Join ${organizationName}?`,
      paragraph(`${invitation.email} is invited as ${String(invitation.role).replace("ROLE_", "").toLowerCase()}.`),
      form([], "Join", async () => {
        await call("organization.v1.OrganizationService/AcceptInvitation", { token: secret });
        show("You are in", paragraph(`You are a member of ${organizationName} now.`));
      })), `You are invited to ${organizationName}. Sign in as ${invitation.email}, or sign up with that address and open the link again.`);
  },
};

Promise.resolve((pages[location.pathname] ?? pages["/login"])()).catch((failure) => show("That did not work", paragraph(failure.message)));
