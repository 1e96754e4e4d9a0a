// A team at the dashboard: an owner and whom she invites, each in a browser of their own.
import { beforeAll, expect, test } from "vitest";
import { connect } from "./client.js";
import { type Person, password, walk } from "./walk.js";

const here = walk();
const { fill, press, follow, title, says, go, sound, wrong } = here;

const vera = "vera@example.com";
const operator = "operator@example.com";

let guest: Person;

beforeAll(async () => {
	await connect(here.chomd).accounts.createFirstOperator({ setupSecret: here.chomd.setupSecret, email: operator, password });
	guest = await here.another();
});

async function signUp(person: Person, email: string) {
	await person.fill("E-mail address", email);
	await person.fill("New password", password);
	await person.press("Sign up");
	await person.title("Look into your mailbox");
	await person.page.goto(/http\S*\/verify-email#chomverify_\w+/.exec(await here.chomd.mail(/verify-email/))?.[0] ?? "");
	await person.fill("Password", password);
	await person.press("Go on");
	await person.title("Make your first organization");
}

const item = (at: Person, text: RegExp | string) => at.page.getByRole("listitem").filter({ hasText: text });

test("a new organization has its owner, and says how others come", async () => {
	await go("/sign-up");
	await signUp(here, "olga@example.com");
	await fill("Name", "acme");
	await press("Create organization");
	await title("acme");
	await follow("Team");
	await title("Team");
	const own = item(here, /^olga@/);
	await own.getByText("owner").waitFor();
	await own.getByText("you", { exact: true }).waitFor();
	await says(/Whoever is invited gets a mail/);
	await sound("team-alone");
	await own.getByRole("button", { name: "Leave" }).click();
	const dialog = here.page.getByRole("dialog", { name: "Leave acme?" });
	await dialog.getByLabel("Type acme to go on").fill("acme");
	await dialog.getByRole("button", { name: "Leave" }).click();
	await dialog.getByText(/left without an owner who can sign in: make somebody else an owner first/).waitFor();
	await dialog.getByRole("button", { name: "Cancel" }).click();
});

test("the owner invites by mail, and an invitation can be withdrawn", async () => {
	for (const email of ["nobody@example.com", vera]) {
		await press("Invite somebody");
		const dialog = here.page.getByRole("dialog", { name: "Invite somebody" });
		await dialog.getByLabel("E-mail address").fill(email);
		await dialog.getByRole("radio", { name: "viewer" }).check();
		if (email === vera) await sound("invite");
		await dialog.getByRole("button", { name: "Send the invitation" }).click();
		await dialog.locator("code", { hasText: /\/invitation#chominv_\w{49}$/ }).waitFor();
		await dialog.getByText(email).waitFor();
		if (email === vera) await sound("invited");
		await dialog.getByRole("button", { name: "Close" }).last().click();
	}
	await sound("team-invitations");
	await press("Withdraw the invitation of nobody@example.com");
	await here.page.getByRole("dialog").getByRole("button", { name: "Withdraw" }).click();
	await here.page
		.getByRole("listitem")
		.filter({ hasText: /^nobody@/ })
		.waitFor({ state: "detached" });
});

const link = async (email: string) => {
	const mail = await here.chomd.mail(new RegExp(`^To: .*${email.replace(/[^a-z@.]/g, ".")}[^]*/invitation#`, "m"));
	return /http\S*\/invitation#chominv_\w+/.exec(mail)?.[0] ?? "";
};

test("the invited signs up, accepts, and is in the team", async () => {
	await guest.page.goto(await link(vera));
	await guest.title("Sign in");
	await guest.says(`You are invited to acme. Sign in as ${vera}`);
	expect(guest.page.url()).not.toContain("chominv_");
	await guest.sound("invitation-stranger");
	await guest.follow("Sign up");
	await signUp(guest, vera);
	await guest.page.goto(await link(vera));
	await guest.title("Join acme?");
	await guest.says(`${vera} is invited as viewer.`);
	await guest.sound("invitation");
	await guest.press("Join");
	await guest.title("acme");
	await item(here, /vera@example.com/).waitFor(); // by itself
	await says("None. Whoever is invited");
});

test("a viewer is offered nothing that changes something", async () => {
	await guest.follow("Team");
	await guest.title("Team");
	await guest.page
		.getByRole("listitem")
		.filter({ hasText: /^olga@/ })
		.waitFor();
	await guest.page.getByRole("button", { name: "Leave" }).waitFor();
	expect(await guest.page.locator("main").getByRole("button").allInnerTexts()).toEqual(["Leave"]);
	await guest.sound("team-viewer");
});

test("the owner changes what a member may do, within what the roles allow", async () => {
	await press(`Change the rights of ${vera}`);
	const dialog = here.page.getByRole("dialog");
	await dialog.getByRole("radio", { name: "viewer" }).waitFor();
	await sound("member-change");
	await dialog.getByRole("radio", { name: "admin" }).check();
	expect(await dialog.getByRole("radio", { name: "Only some sites" }).count()).toBe(0); // admins reach all
	await dialog.getByRole("button", { name: "Save" }).click();
	await dialog.waitFor({ state: "detached" });
	await here.page
		.getByRole("listitem")
		.filter({ hasText: /^vera@.*admin/ })
		.waitFor();
	await guest.page.getByRole("button", { name: "Invite somebody" }).waitFor();
	const owner = item(guest, /^olga@/);
	expect(await owner.getByRole("button").count()).toBe(0); // whom an admin does not change
	await guest.press("Invite somebody");
	await guest.page.getByRole("radio", { name: "admin" }).waitFor();
	expect(await guest.page.getByRole("radio", { name: "owner" }).count()).toBe(0);
	await guest.page.keyboard.press("Escape");
});

test("what strangers wrote is text", async () => {
	expect(await here.page.locator("main img, main script").count()).toBe(0);
	await says(vera); // neither 49, nor another text of ours
});

test("no script failed, and nothing was refused by the policy", () => expect(wrong).toEqual([]));
