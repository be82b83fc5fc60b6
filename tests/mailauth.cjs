// What mailauth says of messages, with the DNS that it is given. Reads JSON from standard input:
//   {"mailauth": folder, "dns": {name: {type: answers}}, "messages": [{"message": base64, "ip", "sender"}]}
// and writes an array of {"dkim": [[selector, result, comment, signed headers]], "spf", "dmarc"}.
const path = require('node:path');

const { mailauth, dns, messages } = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
const { authenticate } = require(path.join(mailauth, 'node_modules', 'mailauth'));

const resolver = async (name, type) => {
    const answers = dns[name.toLowerCase().replace(/\.$/, '')]?.[type];
    if (!answers) {
        throw Object.assign(new Error(`no ${type} for ${name}`), { code: 'ENOTFOUND' });
    }
    return answers;
};

const judge = async ({ message, ip, sender }) => {
    const options = { ip, sender, helo: 'mail.example.org', resolver, strict: true, mta: 'mx.example.net' };
    const { dkim, spf, dmarc } = await authenticate(Buffer.from(message, 'base64'), options);
    return {
        dkim: dkim.results.map(each => [
            each.selector,
            each.status.result,
            each.status.comment || '',
            each.signingHeaders?.keys || ''
        ]),
        spf: spf ? spf.status.result : '',
        dmarc: dmarc ? dmarc.status.result : ''
    };
};

(async () => {
    const verdicts = [];
    for (const each of messages) {
        verdicts.push(await judge(each));
    }
    process.stdout.write(JSON.stringify(verdicts));
})();
