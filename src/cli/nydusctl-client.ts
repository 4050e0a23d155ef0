/** Requests to the API of one daemon, over one connection. */
import { Agent, request } from 'node:http';

/** A daemon whose event loop is alive answers within milliseconds; Kata waits as long as this for a mount. */
const ANSWER_MS_MAX = 30_000;

/** What failed, in words for the person at the keyboard. */
export class RequestFailed extends Error {
  override name = 'RequestFailed';
}

export class ApiClient {
  private readonly agent = new Agent({ keepAlive: true, maxSockets: 1 });

  constructor(private readonly sock: string) {}

  /** The JSON object at `path`. @throws RequestFailed */
  async get(path: string): Promise<object> {
    return parse(await this.exchange('GET', path));
  }

  /** As `get`; null where the daemon has no such thing (404). @throws RequestFailed */
  async find(path: string): Promise<object | null> {
    const text = await this.exchange('GET', path, undefined, [404]);
    return text === '' ? null : parse(text);
  }

  /** Sends `body` as JSON. @throws RequestFailed */
  async send(method: 'PUT' | 'POST' | 'DELETE', path: string, body?: object): Promise<void> {
    await this.exchange(method, path, body === undefined ? undefined : JSON.stringify(body));
  }

  close(): void {
    this.agent.destroy();
  }

  /** The answer's body; '' for a status of `absent`. */
  private exchange(method: string, path: string, body?: string, absent: readonly number[] = []): Promise<string> {
    return new Promise((resolve, reject) => {
      const fail = (why: string) => reject(new RequestFailed(why));
      const call = request(
        {
          socketPath: this.sock,
          agent: this.agent,
          method,
          path,
          timeout: ANSWER_MS_MAX,
          headers: {
            'user-agent': 'nydusctl',
            ...(body === undefined
              ? {}
              : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }),
          },
        },
        (response) => {
          let text = '';
          response.setEncoding('utf8').on('data', (part: string) => {
            text += part;
          });
          response.on('error', (error) => fail(`the answer broke off: ${error.message}`));
          response.on('end', () => {
            const status = response.statusCode ?? 0;
            if (absent.includes(status)) resolve('');
            else if (status >= 400) fail(`Request failed. ${text}`);
            else resolve(text);
          });
        },
      );
      call.on('timeout', () => call.destroy(new Error(`no answer within ${ANSWER_MS_MAX / 1000} s`)));
      call.on('error', (error) => fail(`no answer on ${this.sock}: ${error.message}`));
      call.end(body);
    });
  }
}

function parse(text: string): object {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null) return value;
  } catch {
    // Said below.
  }
  throw new RequestFailed(`the answer is no JSON object: ${text.slice(0, 200)}`);
}
