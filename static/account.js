"use strict";

// The link in a mail is /account#reset=SECRET or /account#confirm=SECRET. Nothing is sent before somebody presses the
// button: programs that open the links in mails use up none.
const find = (id) => document.getElementById(id);
const [purpose, secret] = location.hash.slice(1).split("=");
const form = ["confirm", "reset"].includes(purpose) && secret ? find(purpose) : null;

// Out of the address bar, and of what the browser remembers.
history.replaceState(null, "", location.pathname);

if (form) {
  form.hidden = false;
  form.addEventListener("submit", submit);
} else {
  tell("Nothing to do here. Open the link in your mail once more, all of it.");
}

find("show").addEventListener("change", (event) => {
  find("password").type = event.target.checked ? "text" : "password";
});

async function submit(event) {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  tell("One moment ...");
  try {
    const [done, sentence] = await (purpose === "reset" ? reset() : confirmed());
    form.hidden = done;
    tell(sentence);
    if (done) find("outcome").focus();
  } catch {
    tell("The server cannot be reached. Try again in a moment.");
  }
  button.disabled = false;
}

async function reset() {
  const body = { token: secret, new_password: find("password").value };
  const answer = await post("/api/v1/users/password-reset/confirm", body);
  return answer.ok ? [true, "That is your password now. Log in with it."] : [false, await reason(answer)];
}

async function confirmed() {
  const answer = await post("/api/v1/users/confirm", { token: secret });
  if (!answer.ok) return [false, await reason(answer)];
  const { username, email } = await answer.json();
  return [true, `${email} is confirmed. Your account is called ${username}.`];
}

function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
}

// A sentence, or a list of what is wrong with which field.
async function reason(answer) {
  const { detail } = await answer.json();
  return Array.isArray(detail) ? detail.map((wrong) => wrong.msg).join(" ") : detail;
}

function tell(sentence) {
  find("outcome").textContent = sentence;
}
