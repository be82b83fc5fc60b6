// Does the sum of a sign-up form (newsletter/web/proof.py) while the form is being filled in, away from the page in a
// worker, which is this same file. Where anything is missing for it, the form goes out without, and its mail comes later.
"use strict";

const octets = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const hex = (octets) => Array.from(octets, (octet) => octet.toString(16).padStart(2, "0")).join("");

// The counter, a 32-bit number behind salt and nonce, with which the SHA-256 of all three begins with keyPrefix.
async function solve({ salt, nonce, keyPrefix }) {
  const start = octets(salt + nonce);
  const wanted = octets(keyPrefix);
  const attempt = async (counter) => {
    const input = new Uint8Array(start.length + 4);
    input.set(start);
    new DataView(input.buffer).setUint32(start.length, counter);
    return new Uint8Array(await crypto.subtle.digest("SHA-256", input));
  };
  const together = 256; // waiting for each hash alone takes three times as long
  for (let first = 0; ; first += together) {
    const hashes = await Promise.all(Array.from({ length: together }, (_, place) => attempt(first + place)));
    const place = hashes.findIndex((hash) => wanted.every((octet, index) => octet === hash[index]));
    if (place >= 0) return { counter: first + place, derivedKey: hex(hashes[place]) };
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
