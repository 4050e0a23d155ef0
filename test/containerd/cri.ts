/**
 * The one call of the Kubernetes CRI that these tests need: PullImage. `ctr` pulls too, but hands the snapshotter none
 * of the labels it knows a nydus image by. gRPC over HTTP/2: a message is a flag byte, its length, its protobuf bytes.
 */
import { connect } from 'node:http2';
import { createConnection } from 'node:net';

const METHOD = '/runtime.v1.ImageService/PullImage';
const PULL_MS_MAX = 60_000;

/** Pulls `image` through the CRI plugin of the containerd that listens on `socket`. @throws Error with gRPC's message */
export async function pullImage(socket: string, image: string): Promise<void> {
  const session = connect('http://localhost', { createConnection: () => createConnection(socket) });
  try {
    await new Promise<void>((resolve, reject) => {
      session.once('error', reject);
      const stream = session.request({
        ':method': 'POST',
        ':path': METHOD,
        'content-type': 'application/grpc',
        te: 'trailers',
      });
      let status: { code: string; message: string } | null = null;
      const note = (headers: Record<string, unknown>) => {
        if (headers['grpc-status'] === undefined) return;
        status = { code: String(headers['grpc-status']), message: String(headers['grpc-message'] ?? '') };
      };
      stream.on('response', note).on('trailers', note).on('error', reject).resume();
      stream.setTimeout(PULL_MS_MAX, () => reject(new Error(`pulling ${image}: no answer in ${PULL_MS_MAX} ms`)));
      stream.on('end', () => {
        if (status?.code === '0') resolve();
        else reject(new Error(`pulling ${image}: ${decodeURIComponent(status?.message ?? 'connection closed')}`));
      });
      stream.end(framed(field(1, field(1, Buffer.from(image)))));
    });
  } finally {
    session.close();
  }
}

/** A length-delimited protobuf field. */
function field(number: number, value: Buffer): Buffer {
  if (value.length > 127) throw new Error('image names above 120 bytes are not for this client');
  return Buffer.concat([Buffer.from([(number << 3) | 2, value.length]), value]);
}

function framed(message: Buffer): Buffer {
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}
