// Does the sum of a sign-up form (newsletter/web/proof.py) while the form is being filled in, away from the page in a
// worker, which is this same file. Where anything is missing for it, the form goes out without, and its mail comes later.
"use strict";

const octets = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const hex = (octets) => Array.from(octets, (octet) => octet.toString(16).padStart(2, "0")).join("");

// The counter, a 32-bit number behind salt and nonce, with which the SHA-256 of all three begins with keyPrefix.
async function solve({ salt, nonce, keyPrefix }) {
  const start = octets(salt + nonce);
  const wanted = octets(keyPrefix);
  const input = new Uint8Array(start.length + 4);
  const number = new DataView(input.buffer, start.length);
  input.set(start);
  for (let counter = 0; ; counter++) {
    number.setUint32(0, counter);
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", input));
    if (wanted.every((octet, place) => octet === hash[place])) return { counter, derivedKey: hex(hash) };
  }
}

function begin(field, script) {
  const challenge = JSON.parse(field.dataset.challenge);
  const worker = new Worker(script);
  worker.onmessage = ({ data: solution }) => {
    field.value = btoa(JSON.stringify({ challenge, solution }));
    worker.terminate();
  };
  worker.postMessage(challenge.parameters);
}

if (typeof document === "undefined") {
  onmessage = async ({ data }) => postMessage(await solve(data));
} else {
  const script = document.currentScript.src;
  const field = document.querySelector("input[data-challenge]");
  // crypto.subtle is there over https and on localhost only.
  if (field && window.Worker && window.crypto?.subtle) {
    const filledIn = field.form.querySelector("input[type=email]")?.value;
    if (filledIn) begin(field, script);
    else field.form.addEventListener("focusin", () => begin(field, script), { once: true });
  }
}
