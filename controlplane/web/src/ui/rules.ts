// The rules of what people type, as the protos state them: here so that a slip shows before it is sent.

/** Names of organizations, sites and servers. As a field's pattern it is read with the flag v, to which a bare - in [] is an error. */
export const nameRule = /^[a-z](?:[a-z0-9]|-){0,62}$/;

/** Words that sites are sorted by. */
export const tagRule = /^[a-z0-9][a-z0-9-]{0,30}$/;

/** Whether this can be a name in the DNS; the control plane looks closer. */
export const isDomain = (text: string) => /^(\*\.)?([^\s./:@]{1,63}\.)+[^\s./:@]{2,63}$/.test(text);

/** What people call a token. */
export const tokenNameRule = /^[A-Za-z0-9](?:[A-Za-z0-9 ._@]|\/|-){0,62}$/;
